"""Subscriptions: the new versions of a table as responses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from serve.access.caller import Caller
from serve.backend import Backend
from serve.graphql.execution import GraphqlOperation
from serve.http_errors import HttpError
from serve.queries.parameters import version_number
from serve.tables import Tables
from serve.version_events import new_versions


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
        self._since = None if since is None else version_number("since", str(since))
        self._tables: Tables = backend.tables

    async def events(self) -> AsyncIterator[str | None]:
        """Yield the response of each new version as JSON, and `None` whenever there is none."""
        async for version in new_versions(self._tables, self.table, frozenset({self._since})):
            yield None if version is None else self._response(version.number)

    def _response(self, number: int) -> str:
        values = {"table": self._value, "version": number, "__typename": self._field.type}
        event = {each.key: values[each.name] for each in self._field.fields}
        return json.dumps({"data": {self._field.key: event}})


def subscription_of(backend: Backend, operation: GraphqlOperation, caller: Caller) -> TableChanges:
    """Return the subscription of an operation; raise `HttpError` if it is none."""
    if not operation.is_subscription:
        raise HttpError("the operation is not a subscription", do="send it by POST")
    return TableChanges(backend, operation, caller)
