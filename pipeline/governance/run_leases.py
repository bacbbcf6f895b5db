"""Leases of runs: which process computes which tables now, so that a second one says so before it computes anything.

They are advisory, like those of streams: of two runs that change one table, only one can commit. A lease ends with its run,
at once if its process is known to have ended, and otherwise seconds after it was renewed last, so nobody waits for a killed
run.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import ConflictError, StorageError, few
from pipeline.core.logs import logger
from pipeline.governance.catalog import Catalog
from pipeline.governance.leases import EVERY_S, LEASES, RUN_PREFIX, Lease, LeaseHolder, Leases, lease_of, row_of
from pipeline.governance.leases import this_process as new_holder

log = logger(__name__)
_POLL_S = 0.5


@dataclass(frozen=True)
class RunLease:
    """What a run computes: tables of a lake."""

    run_id: str
    lake: str
    """The location of the lake; environments may share a catalog."""
    tables: Sequence[str]

    @property
    def name(self) -> str:
        """The name of its lease."""
        return f"{RUN_PREFIX}{self.run_id}"

    @property
    def facts(self) -> dict[str, Any]:
        """What its lease says of it."""
        return {"lake": self.lake, "tables": list(self.tables)}


@contextmanager
def holding(
    catalog: Catalog,
    run: RunLease,
    *,
    wait_s: float = 0.0,
    on_wait: Callable[[ConflictError], None] = lambda _: None,
    clock: Callable[[], float] = time.time,
) -> Iterator[None]:
    """Hold the lease of a run, renewed by a thread.

    Raises `ConflictError` if another process computes one of the tables, after `wait_s` seconds; `on_wait` is called once
    before it waits. A catalog that does not answer later does not end the run.
    """
    me, give_up = new_holder(), time.monotonic() + wait_s
    has_waited = False
    while True:
        try:
            _acquire(catalog, run, me, clock())
            break
        except ConflictError as error:
            if time.monotonic() >= give_up:
                raise
            if not has_waited:
                on_wait(error)
            has_waited = True
            time.sleep(min(_POLL_S, max(give_up - time.monotonic(), 0)))
    end = threading.Event()
    thread = threading.Thread(
        target=_renew, args=(catalog, run, me, clock, end), name="headwater-run-lease", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        try:
            with catalog.transaction() as connection:
                connection.execute(LEASES.delete().where(LEASES.c.name == run.name))
        except StorageError as error:
            log.warning("the lease of the run was not released: it expires", run=run.run_id, error=str(error))


def _acquire(catalog: Catalog, run: RunLease, me: LeaseHolder, now: float) -> None:
    """Add a lease, unless a living one has one of the tables; remove those of runs that have ended without doing so."""
    with catalog.transaction() as connection:
        # others wait until this transaction ends: on SQLite because it writes first, on PostgreSQL because of the lock
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("lock table leases in share row exclusive mode"))
        connection.execute(LEASES.insert().values({**row_of(run.name, me, now), "facts_json": json.dumps(run.facts)}))
        others = [lease for lease in _leases(connection) if lease.name != run.name]
        dead = [lease.name for lease in others if not lease.is_living(now)]
        connection.execute(LEASES.delete().where(LEASES.c.name.in_(dead)))
        _require_none(run, (lease for lease in others if lease.name not in dead))


def _leases(connection: sa.Connection) -> list[Lease]:
    rows = connection.execute(LEASES.select().where(LEASES.c.name.startswith(RUN_PREFIX))).mappings()
    return [lease_of(row) for row in rows]


def _require_none(run: RunLease, others: Iterable[Lease]) -> None:
    for lease in others:
        shared = [name for name in run.tables if name in lease.facts["tables"]]
        if lease.facts["lake"] == run.lake and shared:
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(lease.since))
            raise ConflictError(
                f"another run computes {few(map(repr, shared), 3)}",
                got=f"process {lease.pid} on {lease.host}, since {since}",
                do="wait until it ends; `headwater run --wait 10min` waits for it",
            )


def _renew(catalog: Catalog, run: RunLease, me: LeaseHolder, clock: Callable[[], float], end: threading.Event) -> None:
    """Renew the lease of a run until its end; it is added again if another run has removed it as expired."""
    leases, is_failing = Leases(catalog, clock=clock), False
    while not end.wait(EVERY_S):
        try:
            leases.renew(me, {run.name: run.facts})
            is_failing = False
        except StorageError as error:
            if not is_failing:
                log.warning("the lease of the run cannot be renewed now", run=run.run_id, error=str(error))
            is_failing = True
