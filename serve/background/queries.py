"""Runs queries in the background: one at a time in each server, behind the requests for which clients wait."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from pipeline.core.errors import HeadwaterError, StorageError
from serve.access.caller import Caller
from serve.access.fair_queue import CallerTurns
from serve.background.cancellation import BackgroundCancellation
from serve.background.records import STOPPED, BackgroundQuery, BackgroundWork, QueryStatus, write
from serve.background.rows import MOST_RESULT_ROWS, WrittenRows, rows_of, write_rows
from serve.background.store import HeldQuery, QueryStore
from serve.http_errors import AbandonedError, BusyError, GoneError, NotReadyError, UnknownError
from serve.prepared_sql import prepare
from serve.queries.cancellation import CURRENT
from serve.queries.select import PageStatement, Statement
from serve.reading import Reading

_LOG = logging.getLogger("headwater.serve")
SWEEPS_EVERY_S = 30.0
"""How often expired results are removed."""
LOOKS_EVERY_S = 5.0
"""How often a server that has nothing to run looks whether another one has handed something over."""
_TELLS_EVERY_S = 1.0
"""How often the status of a query that runs is written."""
_YIELDS_S, _YIELDS_EVERY_S = 60.0, 0.05
"""How long a query waits while requests wait for their turn, and how often it looks."""
_NICENESS = 10


@dataclass(frozen=True)
class _Waiting:
    held: HeldQuery
    statement: PageStatement
    most_rows: int


class BackgroundQueries:
    """The queries in the background of this server, and the results of all servers of the machine. Thread-safe."""

    def __init__(self, reading: Reading, store: QueryStore, most_seconds: float, hidden: str) -> None:
        """Run with the engine of `reading`, which no request uses, each for so many seconds.

        The path or URI `hidden` is not revealed by errors of the lake.
        """
        self.store = store
        self._reading = reading
        self._most_seconds = most_seconds
        self._hidden = hidden
        self._turns: CallerTurns[_Waiting] = CallerTurns()
        self._changed = threading.Condition()
        self._is_closed = False
        self._running: BackgroundCancellation | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to run queries, and to remove what is not needed any more: first what other servers have left."""
        self._thread = threading.Thread(target=self._run, name="background queries", daemon=True)
        self._thread.start()

    def submit(self, caller: Caller, sql: str, most_rows: int | None) -> tuple[BackgroundQuery, QueryStatus]:
        """Check a statement, and queue it. Raises as `prepare`, and as `QueryStore.create`."""
        prepared = prepare(self._reading, caller, sql, most_rows)
        schema = prepared.statement.schema
        query = BackgroundQuery(
            id=uuid.uuid4().hex,
            caller_kind=caller.kind,
            caller=caller.id,
            rights=self._reading.authorizer.rights_to(caller, prepared.versions),
            submitted_at=time.time(),
            columns=tuple((column.name, column.type) for column in schema.columns),
            versions=dict(prepared.versions),
        )
        with self._changed:
            if self._is_closed or self._thread is None:
                raise BusyError("the server stops", do="submit the query again")
            held = self.store.create(query)
            self._turns.add(caller.id, _Waiting(held, prepared.statement, most_rows or MOST_RESULT_ROWS))
            self._changed.notify()
        return query, QueryStatus()

    def rows(
        self, query: BackgroundQuery, status: QueryStatus, caller: Caller, span: tuple[int, int] | None
    ) -> PageStatement:
        """Return the statement of a result's rows, as `rows_of` does.

        Raises `NotReadyError` if there is no result, `GoneError` if the caller may see something else now than when it asked.
        """
        if status.state != "done":
            problem = (
                f"the query is {status.state}" if status.state in {"queued", "running"} else "the query has no rows"
            )
            raise NotReadyError(problem, got=status.problem.get("detail", status.state), do=f"see /v1/query/{query.id}")
        try:
            rights = self._reading.authorizer.rights_to(caller, query.versions)
        except UnknownError:  # a table that it may not read any more
            rights = ""
        if rights != query.rights:
            do = "submit the query again"
            raise GoneError("what the caller may read has changed since the query was submitted", do=do)
        folder = self.store.path(query.id)
        assert folder is not None  # noqa: S101 - it was found
        return rows_of(query, status, folder, span)

    def close(self) -> None:
        """Interrupt what runs, and hand it and what waits over to another server."""
        with self._changed:
            self._is_closed = True
            if self._running is not None:
                self._running.cancel()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        while (waiting := self._turns.next()) is not None:
            self._hand_over(waiting)
        self._reading.engine.close()

    def _run(self) -> None:
        _lower_priority()
        swept_at = float("-inf")
        while not self._is_closed:
            if time.monotonic() - swept_at > SWEEPS_EVERY_S:
                with suppress(OSError):
                    self.store.sweep()
                swept_at = time.monotonic()
            with self._changed:
                if not self._is_closed and not self._take_over() and not self._turns:
                    self._changed.wait(LOOKS_EVERY_S)
                if self._is_closed or not self._turns:
                    continue
            self._yield()
            with self._changed:
                waiting = None if self._is_closed else self._turns.next()
                if waiting is None:
                    continue
                self._running = BackgroundCancellation(waiting.held.folder, self._most_seconds)
            self._execute(waiting, self._running)
            self._running = None

    def _take_over(self) -> bool:
        """Let a query wait here that another server has handed over, if there is one."""
        with suppress(OSError):
            taken = self.store.take_over()
            if taken is not None:
                held, work = taken
                statement = PageStatement(Statement(work.sql, work.values), held.query.schema)
                self._turns.add(held.query.caller, _Waiting(held, statement, work.most_rows))
                return True
        return False

    def _hand_over(self, waiting: _Waiting) -> None:
        """Let another server run a query; one with values that cannot be written has failed."""
        made = waiting.statement.statement
        if all(value is None or isinstance(value, str | int | float) for value in made.values):
            self.store.hand_over(waiting.held, BackgroundWork(made.sql, made.values, waiting.most_rows))
        else:
            self.store.end(waiting.held, QueryStatus("failed", problem=STOPPED))

    def _yield(self) -> None:
        """Wait while requests wait for their turn, but not for ever."""
        until = time.monotonic() + _YIELDS_S
        while self._reading.queue.is_crowded and time.monotonic() < until and not self._is_closed:
            time.sleep(_YIELDS_EVERY_S)

    def _execute(self, waiting: _Waiting, cancellation: BackgroundCancellation) -> None:
        held, status = waiting.held, QueryStatus("running", started_at=time.time())
        current, is_stopped = CURRENT.set(cancellation), False
        try:
            if not cancellation.is_cancelled:
                write(held.folder, status)
            counts = self._written(waiting, status, cancellation)
            status = replace(_progress(status, counts), state="done", files=tuple(counts.files))
        except AbandonedError:
            is_stopped = cancellation.reason == "stopped"
            status = self._ended(status, cancellation)
        except HeadwaterError as error:
            status = replace(status, state="failed", problem=self._problem(error))
        except OSError as error:
            _LOG.warning("the result of a query cannot be written: %s", error)
            status = _failed(status, "the result cannot be stored", "try again later")
        except Exception:  # noqa: BLE001 - the thread goes on with the next query
            _LOG.exception("a query in the background failed")
            status = _failed(status, "internal error", "see the server's log")
        finally:
            CURRENT.reset(current)
            if is_stopped:
                self._hand_over(waiting)
            else:
                self.store.end(held, status)

    def _written(self, waiting: _Waiting, status: QueryStatus, cancellation: BackgroundCancellation) -> WrittenRows:
        told_at = time.monotonic()

        def written(counts: WrittenRows) -> None:
            nonlocal told_at
            if cancellation.is_cancelled:
                raise AbandonedError("the query was cancelled")
            self.store.require_space(waiting.held, counts.bytes)
            if time.monotonic() - told_at > _TELLS_EVERY_S:
                write(waiting.held.folder, _progress(status, counts))
                told_at = time.monotonic()

        return write_rows(self._reading.engine, waiting.statement, waiting.held.folder, waiting.most_rows, written)

    def _ended(self, status: QueryStatus, cancellation: BackgroundCancellation) -> QueryStatus:
        if cancellation.reason == "cancelled":
            return replace(status, state="cancelled")
        got = f"more than {self._most_seconds:g} s"
        return _failed(status, "the query takes too long", "use filters, or fewer columns", got=got)

    def _problem(self, error: HeadwaterError) -> Mapping[str, str]:
        if isinstance(error, StorageError):
            _LOG.warning("a query in the background: %s", error)
        parts = {"detail": error.problem, "got": error.got, "do": error.do}
        return {
            name: text.replace(self._hidden, "the lake") if self._hidden else text
            for name, text in parts.items()
            if text
        }


def _failed(status: QueryStatus, detail: str, do: str, **more: str) -> QueryStatus:
    return replace(status, state="failed", problem={"detail": detail, **more, "do": do})


def _progress(status: QueryStatus, counts: WrittenRows) -> QueryStatus:
    return replace(status, rows=counts.rows, bytes=counts.bytes, is_truncated=counts.is_truncated)


def _lower_priority() -> None:
    """Let the threads of requests go first: on Linux, priorities are those of threads."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
