"""After any sequence of versions and failures, what is read online equals a loop over what was known."""

from __future__ import annotations

import random
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from ml import feature_view, features
from ml.features.online.reading import FeatureReader
from ml.features.online.target import FeatureTarget
from ml.features.point_in_time import Join
from pipeline.core.sinks import Delivery, SinkPosition
from tests.rigs import proofs

START = datetime(2024, 1, 1, tzinfo=UTC)
SCHEMA = pa.schema(
    {
        "e": pa.string(),
        "t": pa.timestamp("us", "UTC"),
        "known": pa.timestamp("us", "UTC"),
        "x": pa.int64(),
        "gone": pa.bool_(),
    }
)
ENTITIES = ["a", "b", "c"]


def at(minutes):
    return START + timedelta(minutes=minutes)


def us(minutes):
    return round(at(minutes).timestamp() * 1e6)


def table(rows):
    """Return rows, a dictionary of values by entity, event time and time of arrival, as a table."""
    return pa.Table.from_pylist(
        [{"e": e, "t": at(t), "known": at(known), "x": x, "gone": gone} for (e, t, known), (x, gone) in rows.items()],
        SCHEMA,
    )


def brute_force(rows, entity, t, options):
    """Return what the join of the feature page gives a row of an entity at a time."""
    ttl, strict, delay = (options[name] for name in ("ttl", "strict", "delay"))
    shown = None
    for (e, time, known), (x, gone) in rows.items():
        available = max(time + delay, known)
        if e != entity or available > t or (strict and available == t):
            continue
        if shown is None or (time, known) > shown[0]:
            shown = (time, known), x, gone
    if shown is None or shown[2] or (ttl is not None and t > shown[0][0] + ttl):
        return None
    return shown[1]


class KilledError(Exception):
    """The process ends here."""


class Killing:
    """A store whose process is killed before or after the n-th write."""

    def __init__(self, store, calls):
        self._store, self._calls = store, calls

    def __getattr__(self, name):
        return getattr(self._store, name)

    def begin(self, *args):
        return KillingWriter(self._store.begin(*args), self._tick)

    def _tick(self):
        self._calls -= 1
        if self._calls < 0:
            raise KilledError


class KillingWriter:
    def __init__(self, writer, tick):
        self._writer, self._tick = writer, tick

    def get(self, keys):
        return self._writer.get(keys)

    def put(self, *args):
        self._tick()
        self._writer.put(*args)
        self._tick()

    def commit(self, *args):
        self._tick()
        self._writer.commit(*args)
        self._tick()

    def close(self):
        self._writer.close()


class History:
    """The versions of a view's table, and the store that follows them."""

    def __init__(self, store, seed, *, known):
        self.rng = random.Random(seed)  # noqa: S311 - a reproducible seed
        self.store = store
        self.options = {
            "ttl": self.rng.choice([None, 3, 8]),
            "strict": self.rng.random() < 0.5,
            "delay": self.rng.choice([0, 0, 2]),
        }
        ttl = self.options["ttl"]
        self.view = feature_view(
            "select e, t, known, x, gone from rows" if known else "select e, t, x, gone from rows",
            entity="e",
            event_time="t",
            known_at="known" if known else "",
            delay=timedelta(minutes=self.options["delay"]),
            ttl=None if ttl is None else timedelta(minutes=ttl),
            deleted_when="gone",
            online=True,
        ).named("shown")
        self.rows, self.delivered, self.now = {}, None, 0
        self.version = None
        self.known = known

    def change(self):
        """Add, correct and remove rows; the clock goes on."""
        rng, keys = self.rng, [*self.rows]
        self.now += rng.choice([0, 1, 3])
        for _ in range(rng.randint(0, 8)):
            t = self.now + rng.randint(-8, 4)
            known = max(t, self.now) + rng.choice([0, 0, 1, 4]) if self.known else t
            self.rows.setdefault((rng.choice(ENTITIES), t, known), (rng.choice([None, *range(5)]), rng.random() < 0.15))
        for key in rng.sample(keys, min(len(keys), rng.choice([0, 0, 1, 2]))):
            if rng.random() < 0.5:
                del self.rows[key]
            else:
                self.rows[key] = (rng.choice([None, *range(5)]), rng.random() < 0.15)
        self.version = SinkPosition(0 if self.version is None else self.version.version + 1, rng.randint(1, 1 << 40))

    def deliver(self, calls=1 << 30):
        """Deliver the version, by a process that is killed at a call."""
        target = FeatureTarget(Killing(self.store, calls), self.view, lambda: us(self.now))
        reached = target.reached()
        if reached == self.version:
            return
        old = self.seen[reached] if reached is not None else {}
        is_whole = reached is None or self.rng.random() < 0.1
        changed = self.rows if is_whole else {k: v for k, v in self.rows.items() if old.get(k) != v}
        gone = {} if is_whole else {k: v for k, v in old.items() if k not in self.rows}
        rows = self.rows

        def current(among):
            every = table(rows)
            return (
                every if among is None else every.join(among, among.column_names, join_type="left semi")
            ).to_reader()

        target.write(
            Delivery(
                self.version,
                reached,
                table(changed).to_reader(max_chunksize=3),
                table(gone),
                self.view.key,
                is_whole=is_whole,
                current=current,
            )
        )

    def run(self, versions):
        """Deliver versions, the last one in any case, and return how many times were read and compared."""
        self.seen, checks = {}, 0
        for version in range(versions):
            self.change()
            self.seen[self.version] = dict(self.rows)
            while self.rng.random() < 0.4:
                try:
                    self.deliver(self.rng.randint(0, 5))
                except KilledError:
                    continue
            if self.rng.random() < 0.2 and version < versions - 1:
                continue  # later versions are delivered together with this one
            self.deliver()
            checks += self.check()
        return checks

    def check(self):
        """Compare reads at times from the horizon on with a loop over all rows, and return the number of times."""
        checks, horizon = 0, self.store.states()["shown"].horizon
        for t in range(self.now - 3, self.now + 8):
            if us(t) < horizon:
                continue
            join = Join(self.view, features("shown", strict=self.options["strict"]), "f0")
            asked = pa.table({"e": [*ENTITIES, None, "unknown"]})
            read = FeatureReader(self.store, lambda: us(self.now)).read([join], asked, at(t))
            expected = [brute_force(self.rows, e, t, self.options) for e in ENTITIES]
            assert read.values["x"].to_pylist() == [*expected, None, None], (t, self.now)
            checks += 1
        return checks


@pytest.mark.parametrize("seed", range(proofs.examples(5, 300)))
@pytest.mark.parametrize("known", [True, False])
def test_random_versions_and_failures_equal_a_loop(seed, known, address):
    with closing(address.open()) as store:
        assert History(store, seed, known=known).run(6) >= 8
