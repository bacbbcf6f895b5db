"""New versions of tables as events: which they are, for how long a caller gets them, and how many may be open."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from anyio import sleep, to_thread

from pipeline.core.errors import StorageError
from pipeline.lake import Version
from serve.access.admission import Admission
from serve.access.caller import Caller
from serve.backend import Backend
from serve.graphql.execution import GraphqlOperation
from serve.http_errors import HttpError, TooManyError
from serve.queries.rest_syntax import integer
from serve.tables import Tables, identity_of

_LOG = logging.getLogger("headwater.serve")
EVERY_S = 1.0
"""How often a table is looked at, and the caller checked again, in seconds."""
MOST_OPEN, MOST_OF_A_CALLER = 1_000, 50


class OpenSubscriptions:
    """How many subscriptions are open. Used by the event loop only."""

    def __init__(self) -> None:
        """Begin with none."""
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, caller: Caller, address: str) -> Iterator[None]:
        """Count one more while it is open; raise `TooManyError` if there are too many."""
        name = f"address {address}" if caller.is_anonymous else f"{caller.kind} {caller.id}"
        if self._open[name] >= MOST_OF_A_CALLER or self._open.total() >= MOST_OPEN:
            raise TooManyError("there are too many subscriptions", do="end some")
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]


class TableChanges:
    """The versions of the table that an operation names."""

    def __init__(self, backend: Backend, operation: GraphqlOperation, caller: Caller) -> None:
        """Check the operation; raise `HttpError` if the caller may not read the table, or an argument is not valid."""
        (self._field,) = operation.fields
        arguments, naming = self._field.arguments, operation.api.naming
        self._value: str = arguments["table"]
        self.table = naming.enum[self._value]
        self.reason = backend.reading.authorizer.grant(caller, self.table).reason
        since = arguments.get("since")
        self._since = None if since is None else integer("since", str(since), 0, 1 << 62)
        self._tables: Tables = backend.tables

    async def events(self) -> AsyncIterator[str | None]:
        """Yield the response of each new version as JSON, and `None` whenever there is none."""
        told: str | None = None
        while True:
            version = await self._changed(told)
            if version is None:
                yield None
            else:
                is_first, told = told is None, identity_of(version)
                is_news = self._since not in {None, version.number} if is_first else True
                yield self._response(version.number) if is_news else None
            await sleep(EVERY_S)

    async def _changed(self, told: str | None) -> Version | None:
        """Return the newest version, or `None` if it is the one that was told, or cannot be read now."""
        if told is not None and self._tables.known(self.table) == told:
            return None
        try:
            version = await to_thread.run_sync(self._tables.newest, self.table)
        except StorageError as error:
            _LOG.warning("the versions of %s cannot be read: %s", self.table, error)
            return None  # they are told when they can be read again
        return None if version is None or identity_of(version) == told else version

    def _response(self, number: int) -> str:
        values = {"table": self._value, "version": number, "__typename": self._field.type}
        event = {each.key: values[each.name] for each in self._field.fields}
        return json.dumps({"data": {self._field.key: event}})


def subscription_of(backend: Backend, operation: GraphqlOperation, caller: Caller) -> TableChanges:
    """Return the subscription of an operation; raise `HttpError` if it is none."""
    if not operation.is_subscription:
        raise HttpError("the operation is not a subscription", do="send it by POST")
    return TableChanges(backend, operation, caller)


async def caller_of(admission: Admission, authorization: str | None, address: str) -> Caller:
    """Return the caller of a subscription as it is known now; raise `HttpError` if its key or token is not valid."""
    admission.require_record()
    if admission.is_known(authorization):
        return admission.caller(authorization, address)
    return await to_thread.run_sync(admission.caller, authorization, address)
