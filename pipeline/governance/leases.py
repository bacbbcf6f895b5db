"""Leases: record which coordinator runs a stream, and the state that is requested of it.

Leases are advisory: they keep two coordinators from doing the same work. The commit ensures correctness, because it
compares the manifest id of the table with the one it is based on. A coordinator that was suspended and commits after
its lease was taken over fails at the commit.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import ConflictError, RequestError, StorageError
from pipeline.core.processes import is_running, machine
from pipeline.governance.catalog import METADATA, Catalog

LASTS_S, EVERY_S = 10.0, 1.5
"""How long a lease is valid after a renewal, and how often it is renewed."""

RUN_PREFIX = "run "
"""The beginning of the names of leases of runs, which no stream has; see `pipeline.governance.run_leases`."""
LEASES = sa.Table(
    "leases",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("holder", sa.String, nullable=False),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("machine", sa.String, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("wish", sa.String, nullable=False),
    sa.Column("facts_json", sa.Text, nullable=False),
)


class DesiredState(StrEnum):
    """The state requested of the process that runs a stream."""

    RUN = "run"
    PAUSE = "pause"
    DRAIN = "drain"
    STOP = "stop"


@dataclass(frozen=True)
class StreamRequest:
    """What is requested of the process that runs a stream."""

    state: DesiredState = DesiredState.RUN
    shards: int | None = None
    """The requested number of shards; `None` leaves it to the process."""

    def to_text(self) -> str:
        """Return it as a lease stores it: the state and, if requested, the shards, as in `run shards=3`."""
        return self.state.value if self.shards is None else f"{self.state.value} shards={self.shards}"

    @classmethod
    def from_text(cls, text: str) -> StreamRequest:
        """Return it from its text in a lease."""
        state, _, shards = text.partition(" shards=")
        return cls(DesiredState(state), int(shards) if shards else None)


@dataclass(frozen=True)
class LeaseHolder:
    """A process that holds leases, identified by a unique token."""

    token: str
    host: str
    machine: str
    """Identifies the namespace of the process id: machine, boot and container."""
    pid: int


def this_process() -> LeaseHolder:
    """Return a holder for this process; each call returns a new one."""
    return LeaseHolder(secrets.token_hex(8), platform.node(), machine(), os.getpid())


@dataclass(frozen=True)
class Lease:
    """A stream, its current or last holder, and the status it reported. Times are seconds since 1970."""

    name: str
    holder: str
    host: str
    machine: str
    pid: int
    since: float
    until: float
    request: StreamRequest = field(default_factory=StreamRequest)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def is_living(self, now: float) -> bool:
        """Return whether the lease is held: it has not expired, and its process, if on this machine, is alive."""
        is_here = bool(self.machine) and self.machine == machine()
        return self.until > now and not (is_here and not is_running(self.pid))


class Leases:
    """The leases in a catalog. Every error of the catalog is a `StorageError`.

    Leases expire by the clocks of the machines, which should agree to a few seconds.
    """

    def __init__(self, catalog: Catalog, *, clock: Callable[[], float] = time.time) -> None:
        """Use the given catalog; it is not opened yet."""
        self._catalog = catalog
        self._clock = clock

    def get(self, name: str) -> Lease | None:
        """Return a stream's lease, held or not; `None` for a stream that has never run."""
        return next((lease for lease in self.all() if lease.name == name), None)

    def all(self) -> tuple[Lease, ...]:
        """Return the leases of all streams, by name."""
        of_streams = LEASES.select().where(~LEASES.c.name.startswith(RUN_PREFIX)).order_by(LEASES.c.name)
        with self._catalog.transaction() as connection:
            return tuple(lease_of(row) for row in connection.execute(of_streams).mappings())

    def acquire(self, name: str, me: LeaseHolder, *, take_over: bool = False) -> None:
        """Acquire a stream's lease; raise `ConflictError` with the holder if a live process holds it.

        With `take_over`, the lease is taken from its holder, who notices at the next renewal.
        """
        for _ in range(3):
            lease = self.get(name)
            now = self._clock()
            if lease is not None and lease.is_living(now) and not take_over and lease.holder != me.token:
                since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(lease.since))
                raise ConflictError(
                    f"stream {name!r} is already running",
                    got=f"process {lease.pid} on {lease.host}, since {since}",
                    do=f"stop it with `headwater streams stop {name}`, or take it over with --take-over",
                )
            if self._try_acquire(name, me, lease, now):
                return
        raise ConflictError(f"another process has just acquired the lease of stream {name!r}", do="try again")

    def renew(self, me: LeaseHolder, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, StreamRequest | None]:
        """Renew leases, store the status of their streams, and return what is requested; `None` for a lost lease."""
        now = self._clock()
        requests: dict[str, StreamRequest | None] = {}
        with self._catalog.transaction() as connection:
            for name, reported in facts.items():
                mine = (LEASES.c.name == name, LEASES.c.holder == me.token)
                values = {"until": now + LASTS_S, "facts_json": json.dumps(reported)}
                if connection.execute(LEASES.update().where(*mine).values(**values)).rowcount:
                    desired = connection.execute(sa.select(LEASES.c.wish).where(*mine)).scalar_one()
                    requests[name] = StreamRequest.from_text(desired)
                elif connection.execute(sa.select(LEASES.c.name).where(LEASES.c.name == name)).first():
                    requests[name] = None
                else:  # the catalog was recreated
                    connection.execute(
                        LEASES.insert().values({**row_of(name, me, now), "facts_json": json.dumps(reported)})
                    )
                    requests[name] = StreamRequest()
        return requests

    def release(self, name: str, me: LeaseHolder, facts: Mapping[str, Any]) -> None:
        """Release a lease, if it is still held, and store the final status of its stream."""
        mine = (LEASES.c.name == name, LEASES.c.holder == me.token)
        with self._catalog.transaction() as connection:
            values = {"until": 0.0, "wish": DesiredState.RUN, "facts_json": json.dumps(facts)}
            connection.execute(LEASES.update().where(*mine).values(**values))

    def request(self, name: str, state: DesiredState | None = None, *, shards: int | None = None) -> Lease:
        """Request a state or a number of shards of a running stream; raise `RequestError` if it is not running.

        What is not given stays as requested before.
        """
        lease = self.get(name)
        if lease is None or not lease.is_living(self._clock()):
            raise RequestError(f"stream {name!r} is not running", do=f"start it: headwater stream {name}")
        before = lease.request
        requested = StreamRequest(state or before.state, before.shards if shards is None else shards)
        mine = (LEASES.c.name == name, LEASES.c.holder == lease.holder)
        with self._catalog.transaction() as connection:
            connection.execute(LEASES.update().where(*mine).values(wish=requested.to_text()))
        return lease

    def _try_acquire(self, name: str, me: LeaseHolder, lease: Lease | None, now: float) -> bool:
        """Acquire a lease if it has not changed since it was read; return whether it was acquired."""
        row = row_of(name, me, now)
        if lease is None:
            try:
                with self._catalog.transaction() as connection:
                    connection.execute(LEASES.insert().values(row))
            except StorageError as error:
                if isinstance(error.__cause__, sa.exc.IntegrityError):  # another process was first
                    return False
                raise
            return True
        same = [LEASES.c.name == name, LEASES.c.holder == lease.holder]
        if not lease.is_living(now):  # a held lease is renewed concurrently
            same.append(LEASES.c.until == lease.until)
        with self._catalog.transaction() as connection:
            return connection.execute(LEASES.update().where(*same).values(row)).rowcount == 1


def row_of(name: str, me: LeaseHolder, now: float) -> dict[str, Any]:
    """Return the row of a new lease."""
    return {
        "name": name,
        "holder": me.token,
        "host": me.host,
        "machine": me.machine,
        "pid": me.pid,
        "since": now,
        "until": now + LASTS_S,
        "wish": DesiredState.RUN,
        "facts_json": json.dumps({"status": "starting"}),
    }


def lease_of(row: sa.RowMapping) -> Lease:
    """Return a lease from its row."""
    fields = dict(row)
    request = StreamRequest.from_text(fields.pop("wish"))
    return Lease(facts=json.loads(fields.pop("facts_json")), request=request, **fields)
