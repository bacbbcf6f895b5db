"""The OpenAPI entries of features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from pipeline.core.schema import Column
from serve.features.entities import MOST_ENTITIES, VisibleView
from serve.queries.formats import JSON
from serve.rest.shapes import json_type, nullable, responses_of, sample_of

_ERRORS = ("400", "401", "403", "404", "429", "503")
_TEXT, _MAYBE = {"type": "string"}, {"type": ["string", "null"]}
_COLUMNS = {"type": "array", "items": {"type": "object", "properties": {"name": _TEXT, "type": _TEXT}}}


def feature_paths(views: Iterable[VisibleView]) -> dict[str, Any]:
    """Return the paths of the feature views that a caller may look up."""
    view = {
        "type": "object",
        "required": ["name", "entity", "features", "state", "as_of"],
        "properties": {
            **dict.fromkeys(("name", "description", "owner"), _TEXT),
            **dict.fromkeys(("entity", "features"), _COLUMNS),
            **dict.fromkeys(("event_time", "ttl", "as_of", "written_at"), _MAYBE),
            "state": {"type": "string", "description": "whether the online store is up to date with the table"},
            "version": {
                "type": ["integer", "null"],
                "description": "the version of the table that the online store has",
            },
        },
    }
    answer = {
        "type": "object",
        "required": ["views"],
        "properties": {"views": {"type": "array", "items": view}},
    }
    listed = {
        "tags": ["Features"],
        "summary": "Which feature views can be looked up?",
        "operationId": "read_features",
        "responses": responses_of(answer, ("400", "401", "429", "503")),
    }
    return {"/v1/features": {"get": listed}} | {
        f"/v1/features/{quote(each.view.name)}": {"get": _by_url(each), "post": _by_body(each)} for each in views
    }


def _by_body(visible: VisibleView) -> dict[str, Any]:
    entity = {
        "type": "object",
        "required": list(visible.view.entity),
        "additionalProperties": False,
        "properties": {name: nullable(json_type(_column(visible, name))) for name in visible.view.entity},
    }
    body = {
        "type": "object",
        "required": ["entities"],
        "additionalProperties": False,
        "properties": {
            "entities": {"type": "array", "maxItems": MOST_ENTITIES, "items": entity},
            "features": {"type": "array", "items": {"enum": list(visible.features)} if visible.features else {}},
        },
    }
    example = {"entities": [{name: sample_of(_column(visible, name)) for name in visible.view.entity}]}
    return _operation(visible, "look_up", (*_ERRORS, "408", "413")) | {
        "requestBody": {"required": True, "content": {JSON: {"schema": body, "example": example}}}
    }


def _by_url(visible: VisibleView) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "query", "required": True, "schema": json_type(_column(visible, name))}
        for name in visible.view.entity
    ]
    described = "names, separated by commas; without it, all features"
    parameters.append({"name": "features", "in": "query", "description": described, "schema": _TEXT})
    return _operation(visible, "look_up_one", _ERRORS) | {"parameters": parameters}


def _operation(visible: VisibleView, verb: str, errors: tuple[str, ...]) -> dict[str, Any]:
    view = visible.view
    features = {name: nullable(json_type(_column(visible, name))) for name in visible.features}
    row = {
        "type": "object",
        "required": ["entity", "found", "event_time", "features"],
        "properties": {
            "entity": {"type": "object"},
            "found": {"type": "boolean"},
            "event_time": _MAYBE,
            "features": {"type": "object", "properties": features},
        },
    }
    answer = {
        "type": "object",
        "required": ["view", "rows"],
        "properties": {"view": {"const": view.name}, "rows": {"type": "array", "items": row}},
    }
    return {
        "tags": ["Features"],
        "summary": view.name,
        "description": view.description or "The newest features of entities, in the order of the entities.",
        "operationId": f"{verb}_{view.name}",
        "responses": responses_of(answer, errors),
    }


def _column(visible: VisibleView, name: str) -> Column:
    return Column(name, visible.schema.as_dict()[name])
