"""A server of Arrow Flight SQL beside the HTTP endpoints: the same keys, policies, limits and audit log.

It keeps nothing between calls: the handle of a prepared statement is its text, which is checked again for the caller of each call.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import flight

from pipeline.core.errors import HeadwaterError
from pipeline.kernel.types import arrow_schema
from serve.access.admission import RequestContext
from serve.access.authentication import credential_of
from serve.access.authorization import require_scope
from serve.access.caller import ANONYMOUS, Caller
from serve.backend import Backend
from serve.flight.messages import FlightMessage, packed, parse
from serve.flight.metadata import FlightCatalog
from serve.http_errors import (
    AbandonedError,
    ForbiddenError,
    HttpError,
    OverloadError,
    TooManyError,
    UnauthenticatedError,
)
from serve.prepared_sql import prepare
from serve.problems import status_of
from serve.queries.cancellation import CURRENT, Cancellation
from serve.queries.formats import record_batches
from serve.tls import TlsFiles

_LOG = logging.getLogger("headwater.serve")
T = TypeVar("T")
_KINDS: Mapping[type[HeadwaterError], type[Exception]] = {
    UnauthenticatedError: flight.FlightUnauthenticatedError,
    ForbiddenError: flight.FlightUnauthorizedError,
    OverloadError: flight.FlightUnavailableError,
    TooManyError: flight.FlightUnavailableError,
    HttpError: pa.ArrowInvalid,
}
_HANDSHAKE_OK = b""


class FlightServer(flight.FlightServerBase):  # type: ignore[misc]
    """Answers drivers of Flight SQL at an address, until `close`."""

    def __init__(self, backend: Backend, host: str, port: int, tls: TlsFiles | None = None) -> None:
        """Listen, with TLS if there are files for it; raise `OSError` if that is not possible.

        With port 0, the system chooses one: see `port`. Clients are not asked for certificates.
        """
        self._backend = backend
        self._catalog = FlightCatalog(backend.reading, backend.project.settings.name)
        location = f"grpc{'' if tls is None else '+tls'}://{f'[{host}]' if ':' in host else host}:{port}"
        try:
            pairs = [] if tls is None else [(Path(tls.certificate).read_bytes(), Path(tls.key).read_bytes())]
            super().__init__(
                location, auth_handler=_Handshakes(), middleware={"caller": _Callers(backend)}, tls_certificates=pairs
            )
        except (pa.ArrowException, OSError) as error:
            raise OSError(f"cannot listen on {host}:{port}") from error
        self._thread = threading.Thread(target=self.serve, name="flight", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Accept no more calls, and end those that run."""
        self.shutdown()
        self._thread.join(10)

    def get_flight_info(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
        """Return the columns of a statement or of an answer about the catalog, and the ticket for its rows."""

        def answer(call: _Call) -> flight.FlightInfo:
            message = parse(descriptor.command or b"")
            if self._catalog.answers(message.name):
                schema, ticket = self._catalog.answer(message, call.context.caller).schema, descriptor.command
            else:
                sql = _sql_of(message)
                schema = self._columns(call, sql)
                ticket = packed("TicketStatementQuery", {1: sql.encode()})
            # no location: the rows are at the server that was asked
            return flight.FlightInfo(schema, descriptor, [flight.FlightEndpoint(ticket, [])], -1, -1)

        return self._answered(context, "GetFlightInfo", answer)

    def get_schema(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.SchemaResult:
        """Return the columns of a statement or of an answer about the catalog."""
        return flight.SchemaResult(self.get_flight_info(context, descriptor).schema)

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.FlightDataStream:
        """Return the rows of a ticket. They are sent while they are read."""

        def answer(call: _Call) -> flight.FlightDataStream:
            message = parse(ticket.ticket)
            if self._catalog.answers(message.name):
                return flight.RecordBatchStream(self._catalog.answer(message, call.context.caller))
            sql = _sql_of(message)
            require_scope(call.context.caller, "query")
            prepared = prepare(self._backend.reading, call.context.caller, sql, None)
            call.context.facts.update(table=",".join(prepared.versions), why="scope query", rows=0)
            call.is_open = True
            rows = record_batches(self._backend.engine, prepared.statement)
            batches = self._counted(call, _while_wanted(context, rows))
            return flight.GeneratorStream(arrow_schema(prepared.statement.schema), batches)

        return self._answered(context, "DoGet", answer)

    def do_action(self, context: Any, action: flight.Action) -> Iterator[bytes]:
        """Prepare a statement, or forget it."""

        def answer(call: _Call) -> list[bytes]:
            if action.type == "CreatePreparedStatement":
                sql = parse(action.body.to_pybytes()).text(1)
                schema = self._columns(call, sql)
                result = {1: sql.encode(), 2: schema.serialize().to_pybytes()}
                return [packed("ActionCreatePreparedStatementResult", result)]
            if action.type == "ClosePreparedStatement":
                return []
            raise HttpError(f"the action {action.type[:60]!r} is not supported", do="read only, with SELECT")

        return iter(self._answered(context, "DoAction", answer))

    def list_actions(self, _: Any) -> list[tuple[str, str]]:
        """Return the actions that are supported."""
        return [("CreatePreparedStatement", "prepare a SELECT"), ("ClosePreparedStatement", "forget it")]

    def do_put(self, context: Any, *_: Any) -> None:
        """Refuse to write, and parameters of statements."""

        def answer(_: _Call) -> None:
            problem = "statements cannot have parameters, and nothing can be written"
            raise HttpError(problem, do="write values into the SELECT")

        self._answered(context, "DoPut", answer)

    def _columns(self, call: _Call, sql: str) -> pa.Schema:
        require_scope(call.context.caller, "query")
        return arrow_schema(prepare(self._backend.reading, call.context.caller, sql, None).statement.schema)

    def _counted(self, call: _Call, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                call.context.facts["rows"] = int(str(call.context.facts["rows"])) + batch.num_rows
                yield batch
        except HeadwaterError as error:
            call.status = status_of(error)
            if isinstance(error, AbandonedError):
                call.context.facts["is_cut"] = True
            raise _translated(error) from None
        finally:
            self._record(call)

    def _answered(self, context: Any, method: str, answer: Callable[[_Call], T]) -> T:
        """Return what a call is answered, and record it; raises the errors of Flight."""
        call = _Call(method)
        try:
            self._admit(context, call)
            return answer(call)
        except HeadwaterError as error:
            call.status, call.is_open = status_of(error), False
            raise _translated(error) from None
        except Exception as error:
            call.status, call.is_open = 500, False
            _LOG.exception("Flight SQL failed")  # its text is not for the caller
            raise flight.FlightInternalError("internal error; see the server's log") from error
        finally:
            if not call.is_open:
                self._record(call)

    def _admit(self, context: Any, call: _Call) -> None:
        admission = self._backend.admission
        admission.require_record()
        address = re.sub(r":\d+$", "", context.peer())  # each connection has another port
        call.context.caller = context.get_middleware("caller").caller(address)
        call.context.charges = admission.charges(call.context.caller, address, "flight")
        if not admission.take(call.context.charges).is_granted:
            raise TooManyError("there are too many requests", do="send fewer, or wait")

    def _record(self, call: _Call) -> None:
        self._backend.admission.record(call.context, call.method, "/flight", {"status": call.status})


class _CallCancellation(Cancellation):
    """Whether the client of a call has ended it, or has left."""

    def __init__(self, context: Any) -> None:
        super().__init__()
        self._context = context

    @property
    def is_cancelled(self) -> bool:
        return super().is_cancelled or bool(self._context.is_cancelled())


def _while_wanted(context: Any, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches; interrupt the statement when the client leaves. It is asked only while a batch is read: later, the call may be over."""
    cancellation = _CallCancellation(context)
    while True:
        current = CURRENT.set(cancellation)
        try:
            batch = next(batches, None)
        finally:
            CURRENT.reset(current)
        if batch is None:
            return
        yield batch


class _Call:
    """A call, and what is recorded of it; one that sends rows is open until they are sent."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.status = 200
        self.is_open = False
        self.context = RequestContext(uuid.uuid4().hex, ANONYMOUS, "", time.perf_counter())


class _Caller(flight.ServerMiddleware):  # type: ignore[misc]
    """The credential of a call. Drivers with a user and a password send it once, and the response's bearer token after that."""

    def __init__(self, backend: Backend, authorization: str | None) -> None:
        self._backend = backend
        self._authorization = authorization

    def caller(self, address: str) -> Caller:
        return self._backend.admission.caller(self._authorization, address)

    def sending_headers(self) -> dict[str, str]:
        if not (self._authorization or "").lower().startswith("basic "):
            return {}
        try:
            return {"authorization": f"Bearer {credential_of(str(self._authorization))}"}
        except UnauthenticatedError:
            return {}


class _Callers(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def start_call(self, _: Any, headers: Mapping[str, list[str]]) -> _Caller:
        found = sorted(set(headers.get("authorization", [])))  # some drivers send it twice
        return _Caller(self._backend, None if not found else found[0] if len(found) == 1 else "several")


class _Handshakes(flight.ServerAuthHandler):  # type: ignore[misc]
    """Lets the handshake of drivers pass: each call is checked by its own header."""

    def authenticate(self, outgoing: Any, _: Any) -> None:
        outgoing.write(_HANDSHAKE_OK)

    def is_valid(self, _: Any) -> bytes:
        return b""


def _sql_of(message: FlightMessage) -> str:
    if message.name in {"CommandStatementQuery", "TicketStatementQuery", "CommandPreparedStatementQuery"}:
        return message.text(1)
    raise HttpError(f"{message.name[:60]} is not supported", do="read only, with SELECT")


def _translated(error: HeadwaterError) -> Exception:
    """Return the error of Flight for one of ours."""
    text = error.problem if error.do is None else f"{error.problem}; {error.do}"
    for kind in type(error).__mro__:
        if kind in _KINDS:
            translated: type[Exception] = _KINDS[kind]
            return translated(text)
    _LOG.warning("Flight SQL: %s", error)
    unavailable: Exception = flight.FlightUnavailableError("the tables cannot be read; see the server's log")
    return unavailable
