"""The OpenAPI entry of the versions of a table."""

from __future__ import annotations

from typing import Any

from serve.queries.parameters import MOST_VERSION
from serve.rest import events
from serve.rest.shapes import responses_of

_ERRORS = ("400", "401", "404", "406", "429", "503")


def events_of(table: str) -> dict[str, Any]:
    """Return the operation that tells new versions of a table."""
    number = {"type": "integer", "minimum": 0, "maximum": MOST_VERSION}
    answer = {
        "type": "object",
        "required": ["table", "version"],
        "properties": {"table": {"const": table}, "version": {"type": "integer"}},
    }
    responses = responses_of(answer, _ERRORS)
    responses["200"]["content"][events.EVENTS] = {"schema": {"type": "string"}}
    responses["204"] = {"description": "there is no new version yet"}
    return {
        "tags": ["Tables"],
        "summary": f"new versions of {table}",
        "description": "The newest version, unless it is the one that the client has: then the next one, or 204 if there is "
        "none while the client waits. As `text/event-stream`, an event for each new version.",
        "operationId": f"read_events_{table}",
        "parameters": [
            {"name": "since", "in": "query", "description": "the version that the client has", "schema": number},
            {
                "name": "wait",
                "in": "query",
                "description": "how many seconds to wait for a new version",
                "schema": {"type": "integer", "minimum": 0, "maximum": events.MOST_WAIT_S, "default": 0},
            },
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "of a stream of events: the last version that the client got",
                "schema": {"type": "string"},
            },
        ],
        "responses": responses,
    }
