"""Limits that all replicas of a project share: a replica takes small batches from the server's buckets, and counts requests against them.

So most requests wait for nothing. All that a replica grants was taken from the one bucket before, so that in any `t` seconds all `n` replicas
together grant at most `capacity + t * per_second + n * (largest_batch + amount)`, and in a day at most its quota. While the server does not
answer, each replica counts alone.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from serve.access.rate_limits import DAY_S, Allowance, Charge, Limit, RateLimits, allowance
from serve.access.shared_server import SharedScript, SharedServer, SharedServerError

_MOST_CALLERS = 10_000
_STRIPES = 64
_BATCH_S = 0.1
_OFTEN_S = 0.2
"""Callers for whom batches are needed more often than this get larger ones."""
_LEAST_WAIT_S = 0.005
_MIDNIGHT_S = 1.0
"""How long before the end of a day nothing of it is kept, so that a request that waits for the server meanwhile gives nothing back to the next day."""
_TAKE = SharedScript("""
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local answer = {}
for i, name in ipairs(KEYS) do
  local capacity, rate, debt, need, want =
    tonumber(ARGV[i*5-4]), tonumber(ARGV[i*5-3]), tonumber(ARGV[i*5-2]), tonumber(ARGV[i*5-1]), tonumber(ARGV[i*5])
  local stored = redis.call('HMGET', name, 'level', 'at')
  local level, at = capacity, now
  if stored[1] then
    local before = tonumber(stored[2])
    at = math.max(now, before)
    if rate > 0 then
      level = math.min(capacity, tonumber(stored[1]) + (at - before) * rate)
    elseif math.floor(before / 86400) == math.floor(at / 86400) then
      level = math.min(capacity, tonumber(stored[1]))
    end
  end
  level = level - debt
  local granted = math.min(want, math.floor(level))
  if granted < need or granted < 0 then granted = 0 end
  level = level - granted
  local day = 86400 - at % 86400
  local kept = day + 60
  if rate > 0 then kept = (capacity - level) / rate + 10 end
  redis.call('HSET', name, 'level', string.format('%.17g', level), 'at', string.format('%.17g', at))
  redis.call('PEXPIRE', name, math.ceil(math.min(kept, 86400 * 30) * 1000))
  answer[i] = {granted, string.format('%.17g', level), string.format('%.17g', day)}
end
return answer
""")
"""Take between `need` and `want` from each bucket, or nothing from it, by the server's clock; debts are taken in any case."""


def largest_batch(limit: Limit) -> int:
    """Return how much of a limit a replica takes at most before it is asked for: a tenth of a second's, or a hundredth of a day's."""
    if limit.is_daily:
        return max(1, limit.capacity // 100)
    return max(1, min(int(limit.per_second * _BATCH_S), limit.capacity // 10))


@dataclass
class _Batch:
    """What a replica took from a bucket, and has not granted yet; negative after requests that cost more than they were charged."""

    units: int = 0
    size: int = 1
    """How much was asked for last."""
    level: float = 0.0
    """What the bucket had when it was asked."""
    asked_at: float = float("-inf")
    until: float = float("inf")
    """When it is void, because the day ends."""
    refused_until: float = float("-inf")
    day_s: float = DAY_S
    """How long the day lasted when the bucket was asked."""

    def pay(self) -> int:
        """Return the debt, which is paid now."""
        debt = max(0, -self.units)
        self.units += debt
        return debt

    def next_size(self, limit: Limit, now: float) -> int:
        """Return how much to ask for: more if the bucket was asked a moment ago."""
        is_often = now - self.asked_at < _OFTEN_S
        self.size = min(self.size * 2, largest_batch(limit)) if is_often else 1
        return self.size

    def note(self, wanted: _Wanted, level: float, day_s: float, now: float) -> None:
        """Note what the bucket has answered to a question that was asked at `now`: its day ends no sooner than that says."""
        limit = wanted.charge.limit
        self.level, self.asked_at, self.day_s = level, now, day_s
        self.until = now + day_s - _MIDNIGHT_S if limit.is_daily else float("inf")
        if not wanted.is_met:
            wait_s = day_s if limit.is_daily else (wanted.missing - level) / limit.per_second
            self.refused_until = now + max(wait_s, _LEAST_WAIT_S)
            self.size = 1

    def end_day(self, now: float) -> None:
        """Forget what is left of a day that has ended."""
        if now >= self.until:
            self.units, self.until, self.refused_until = min(0, self.units), float("inf"), float("-inf")


@dataclass
class _Wanted:
    """What a request takes from a limit: a part is reserved of what the replica has, the rest is asked for."""

    charge: Charge
    batch: _Batch
    reserved: int = 0
    granted: int = 0

    def reserve(self) -> None:
        """Keep other requests from taking what this one needs."""
        self.reserved = min(max(0, self.batch.units), self.charge.amount)
        self.batch.units -= self.reserved

    @property
    def missing(self) -> int:
        return self.charge.amount - self.reserved

    @property
    def is_met(self) -> bool:
        return self.granted >= self.missing

    def end(self, *, is_granted: bool) -> None:
        """Give back what the request does not take."""
        self.batch.units += self.reserved + self.granted - (self.charge.amount if is_granted else 0)


class SharedLimits:
    """The limits of callers, shared with other replicas. Thread-safe."""

    def __init__(
        self, server: SharedServer, local: RateLimits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Share by a server; `local` counts while it does not answer. `clock` returns seconds."""
        self._server = server
        self._local = local or RateLimits()
        self._clock = clock
        self._batches: OrderedDict[tuple[str, str], _Batch] = OrderedDict()
        self._lock = threading.Lock()
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]
        self.counted_alone = 0
        """How many requests were counted by this replica alone."""

    @property
    def executor(self) -> Executor:
        """Where event loops wait for `take`."""
        return self._server.executor

    def try_take(self, charges: Sequence[Charge]) -> Allowance | None:
        """Take what a request costs, as `take`, if that is known without waiting; otherwise return `None`."""
        with self._lock:
            now = self._clock()
            batches = [self._batch(charge.limit, now) for charge in charges]
            pairs = list(zip(charges, batches, strict=True))
            is_granted = all(each.units >= charge.amount for charge, each in pairs)
            is_refused = any(each.units < charge.amount and now < each.refused_until for charge, each in pairs)
            if is_granted:
                for charge, each in pairs:
                    each.units -= charge.amount
            if is_granted or is_refused:
                if is_granted:
                    self._note_daily(charges)
                return _allowance(pairs, now, is_granted=is_granted)
        if not self._server.is_up:
            return self._alone(charges)
        return None

    def take(self, charges: Sequence[Charge]) -> Allowance:
        """Take what a request costs from all of its limits, or from none; may wait for the server."""
        with self._stripes[hash(charges[0].limit.of) % _STRIPES]:  # one request of a caller asks for those that wait
            known = self.try_take(charges)
            if known is not None:
                return known
            with self._lock:
                now = self._clock()
                wanted = [_Wanted(charge, self._batch(charge.limit, now)) for charge in charges]
                for each in wanted:
                    each.reserve()
            try:
                self._ask(wanted, now)
            except SharedServerError:
                with self._lock:
                    for each in wanted:
                        each.end(is_granted=False)
                return self._alone(charges)
            with self._lock:
                is_granted = all(each.is_met for each in wanted)
                for each in wanted:
                    each.end(is_granted=is_granted)
                if is_granted:
                    self._note_daily(charges)
                return _allowance([(each.charge, each.batch) for each in wanted], now, is_granted=is_granted)

    def charge(self, charges: Sequence[Charge]) -> None:
        """Take what a request that was answered has cost more, also if there is not so much; never waits."""
        if not self._server.is_up:
            self._local.charge(charges)
            return
        self._note_daily(charges)
        with self._lock:
            now = self._clock()
            for charge in charges:
                self._batch(charge.limit, now).units -= charge.amount
        self._server.submit(lambda: self._settle(charges))

    def _settle(self, charges: Sequence[Charge]) -> None:
        with self._lock:
            now = self._clock()
            wanted = [_Wanted(replace(charge, amount=0), self._batch(charge.limit, now)) for charge in charges]
        self._ask(wanted, now)

    def _note_daily(self, charges: Sequence[Charge]) -> None:
        """Count here too what was taken from the quotas of a day, which must hold when the server does not answer."""
        daily = [charge for charge in charges if charge.limit.is_daily]
        if daily:
            self._local.charge(daily)

    def _alone(self, charges: Sequence[Charge]) -> Allowance:
        self.counted_alone += 1
        return self._local.take(charges)

    def _ask(self, wanted: Sequence[_Wanted], now: float) -> None:
        """Take what is missing, and batches, from the server's buckets, and pay debts; raises `SharedServerError`."""
        names: list[bytes] = []
        values: list[object] = []
        asked: list[tuple[_Wanted, int]] = []
        with self._lock:
            for each in wanted:
                limit, debt = each.charge.limit, each.batch.pay()
                if each.missing or debt:
                    want = each.batch.next_size(limit, now) if each.missing else 0
                    names.append(self._server.name("limit", limit.name, limit.of))
                    values += [limit.capacity, limit.per_second, debt, each.missing, max(want, each.missing)]
                    asked.append((each, debt))
        if not asked:
            return
        try:
            answers = self._server.run(_TAKE, names, values)
        except SharedServerError:
            debts = [replace(each.charge, amount=debt) for each, debt in asked]
            self._local.charge([charge for charge in debts if charge.amount and not charge.limit.is_daily])
            raise
        with self._lock:
            for (each, _), (granted, level, day_s) in zip(asked, answers, strict=True):
                each.granted = int(granted)
                each.batch.note(each, float(level), float(day_s), now)

    def _batch(self, limit: Limit, now: float) -> _Batch:
        key = (limit.name, limit.of)
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = _Batch(level=limit.capacity)
            if len(self._batches) > _MOST_CALLERS:
                self._batches.popitem(last=False)
        else:
            self._batches.move_to_end(key)
        batch.end_day(now)
        return batch


def _allowance(pairs: Sequence[tuple[Charge, _Batch]], now: float, *, is_granted: bool) -> Allowance:
    levels, day_s = [], DAY_S
    for charge, batch in pairs:
        limit = charge.limit
        refilled = batch.level + max(0.0, now - batch.asked_at) * limit.per_second if limit.per_second else batch.level
        levels.append(min(float(limit.capacity), refilled + batch.units))
        if limit.is_daily:
            day_s = max(0.0, batch.asked_at + batch.day_s - now)
    return allowance([charge for charge, _ in pairs], levels, day_s, is_granted=is_granted)
