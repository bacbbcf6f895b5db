"""The OpenAPI entries of endpoints that are the same in all projects, for the caller that may use them."""

from __future__ import annotations

from typing import Any, NamedTuple

from serve.access.caller import Caller
from serve.rest.operations import MOST_RUNS, MOST_STATE_ROWS
from serve.rest.shapes import responses_of

_LISTED = ("400", "401", "429", "503")
_NAMED = (*_LISTED, "404")
_OPERATED = (*_LISTED, "403")


class _Words(NamedTuple):
    path: str
    summary: str
    members: tuple[str, ...]
    """The lists of objects of the response."""
    errors: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    scope: str = ""
    most: int = 0
    """The largest `limit`."""


_ENDPOINTS = (
    _Words("/v1/catalog", "Which tables, metrics and models are there?", ("tables", "metrics", "models"), _LISTED),
    _Words("/v1/lineage", "What is computed from what?", ("definitions",), _NAMED, ("name",)),
    _Words("/v1/quality", "Which expectations were violated?", ("tables",), _NAMED, ("name",)),
    _Words("/v1/models", "Which versions of models are in use?", ("models",), _LISTED),
    _Words("/v1/experiments", "Which experiments are there?", ("experiments",), _LISTED),
    _Words("/v1/runs", "Which runs were there?", ("runs",), _OPERATED, ("limit",), "operate", MOST_RUNS),
    _Words("/v1/runs/{run_id}", "What did a run do?", ("steps",), (*_OPERATED, "404"), (), "operate"),
    _Words(
        "/v1/streams/{name}/state",
        "What does a stream remember?",
        ("rows",),
        (*_OPERATED, "404"),
        ("table", "limit"),
        "operate",
        MOST_STATE_ROWS,
    ),
)


def described(caller: Caller) -> dict[str, Any]:
    """Return the paths that a caller may use."""
    return {each.path: {"get": _operation(each)} for each in _ENDPOINTS if not each.scope or caller.may(each.scope)}


def _operation(words: _Words) -> dict[str, Any]:
    parts = [part[1:-1] for part in words.path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in parts]
    limit = {"type": "integer", "minimum": 1, "maximum": words.most}
    parameters += [
        {"name": name, "in": "query", "schema": limit if name == "limit" else {"type": "string"}}
        for name in words.parameters
    ]
    if "rows" in words.members:
        described_key = "COLUMN=VALUE, of rows that are returned"
        texts = {"type": "array", "items": {"type": "string"}}
        parameters.append({"name": "key", "in": "query", "description": described_key, "schema": texts})
    lists = {name: {"type": "array", "items": {"type": "object"}} for name in words.members}
    answer = {"type": "object", "required": list(lists), "properties": lists}
    return {
        "tags": ["Project"],
        "summary": words.summary,
        "operationId": "read" + words.path.removeprefix("/v1").translate(str.maketrans("/", "_", "{}")),
        "parameters": parameters,
        "responses": responses_of(answer, words.errors),
    }
