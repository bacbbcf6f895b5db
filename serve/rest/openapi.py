"""The OpenAPI document of a project: a path for each table and model, with its actual columns and features."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ml.models import Model
from pipeline.core.definitions import Feed, Source, StoredDefinition
from pipeline.core.errors import StorageError
from pipeline.core.schema import Column, Schema
from pipeline.lake.changed_rows import CHANGE_TYPE, CHANGED
from serve.access.caller import Caller
from serve.backend import Backend
from serve.features.lookup import FeatureLookup
from serve.predictions.models import MOST_ROWS as MOST_PREDICTED
from serve.predictions.models import ServedModels
from serve.queries.formats import JSON
from serve.queries.query import MOST_ROWS
from serve.queries.sql_guard import MOST_SQL_BYTES
from serve.reading import Reading
from serve.rest.background_openapi import PREFER, accepted, background_paths
from serve.rest.descriptions import described
from serve.rest.events_openapi import events_of
from serve.rest.features_openapi import feature_paths
from serve.rest.shapes import (
    CHANGES_SINCE,
    METRIC_WORDS,
    RESULT,
    SCHEMAS,
    SECURITY,
    WORDS,
    json_type,
    limit_of_rows,
    nullable,
    reference,
    responses_of,
    responses_with_rows,
    sample_of,
)
from serve.rest.sources import MOST_SENT, sources_of
from serve.status import visible_schema

_FEATURES: dict[str, dict[str, Any]] = {
    "number": {"type": "number"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "text": {"type": "string"},
    "timestamp": {"type": "string", "format": "date-time"},
}
_EXAMPLES = {"number": 1.5, "integer": 1, "boolean": True, "text": "a", "timestamp": "2013-07-01T12:00:00Z"}
_LOOKED_UP = "looked up or computed if it is not given"
_FILTERS = (
    "Filter a column with `column=operator.value`: eq, neq, gt, gte, lt, lte, like and ilike (`*` matches any text), "
    "match (a regular expression), fts (words), `in.(a,b)`, `is.null`, `is.not_null`, each also after `not.`. Conditions are combined "
    "with AND, or with `or=(a.eq.1,b.gt.2)`. Follow `next` for more rows; all pages are of the same version."
)


def document(backend: Backend, caller: Caller) -> dict[str, Any]:
    """Return the document of what a caller may see. What cannot be read now is described without columns or features."""
    reading, models = backend.reading, backend.models
    paths: dict[str, Any] = {
        "/health": {
            "get": _get(
                "Health",
                "Is the service healthy?",
                "The status of tables and models.",
                responses_of(reference("Health"), ("401", "429", "503")),
            )
        },
        "/v1/tables": {
            "get": _get(
                "Tables",
                "Which tables are there?",
                "All tables with their columns.",
                responses_of(reference("Tables"), ("401", "429", "503")),
            )
        },
    }
    paths |= described(caller)
    for grant in reading.authorizer.readable(caller):
        name = grant.definition.name
        schema = visible_schema(reading, caller, grant)
        paths[f"/v1/tables/{quote(name)}"] = {"get": _table(grant.definition, schema)}
        paths[f"/v1/tables/{quote(name)}/changes"] = {"get": _changes(grant.definition, schema)}
        paths[f"/v1/tables/{quote(name)}/events"] = {"get": events_of(name)}
    paths |= _metrics(reading, caller)
    if caller.may("query"):
        paths["/v1/query"] = _query(in_background=backend.background is not None)
        paths |= {} if backend.background is None else background_paths()
    for each in sources_of(backend.project).values():
        if caller.may("write", each.name):
            paths[f"/v1/sources/{quote(each.name)}"] = {"post": _source(each)}
    paths |= feature_paths(backend.views.readable(caller))
    for artifact in models.definitions:
        if caller.may("predict", artifact.name):
            paths[f"/v1/models/{quote(artifact.name)}/predict"] = {"post": _model(artifact, models, backend.features)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": backend.project.settings.name,
            "version": "1",
            "description": "Tables and predictions of this project, served by Headwater.",
        },
        "paths": paths,
        "components": {"schemas": SCHEMAS, "securitySchemes": SECURITY},
        "security": [{"bearer": []}, {"basic": []}, {}],
    }


def _source(definition: Source | Feed) -> dict[str, Any]:
    every = () if definition.schema is None else definition.schema.columns
    columns = [each for each in every if not each.name.startswith("_")]
    row = {"type": "object", "properties": {each.name: nullable(json_type(each)) for each in columns}}
    rows = {"type": "array", "minItems": 1, "maxItems": MOST_SENT, "items": row}
    example = [{each.name: sample_of(each) for each in columns}]
    key = {"type": "string", "maxLength": 255, "pattern": "^[A-Za-z0-9:._/+-]+$"}
    answer = {"type": "object", "required": ["result", "rows"], "properties": {"rows": {"type": "integer"}}}
    responses = responses_of(answer, ("400", "401", "403", "404", "408", "413", "422", "429", "503"))
    responses["202"] = responses.pop("200")
    return {
        "tags": ["Sources"],
        "summary": definition.name,
        "description": definition.description or "Rows are on disk before the response is sent.",
        "operationId": f"write_{definition.name}",
        "parameters": [{"name": "Idempotency-Key", "in": "header", "schema": key}],
        "requestBody": {"required": True, "content": {JSON: {"schema": {"oneOf": [row, rows]}, "example": example}}},
        "responses": responses,
    }


def _metrics(reading: Reading, caller: Caller) -> dict[str, Any]:
    try:
        found = reading.metrics.readable(caller)
    except StorageError:
        return {}
    row = {"type": "object", "additionalProperties": True}
    answer = {
        "type": "object",
        "required": ["metrics"],
        "properties": {
            "metrics": {"type": "array", "description": "without parameters: what can be asked for"},
            **RESULT,
            "answered_by": {"type": "object", "additionalProperties": {"type": "string"}},
            "rows": {"type": "array", "items": row},
        },
    }
    errors = ("400", "401", "404", "406", "414", "429", "503")
    names = {
        "name": "metrics",
        "in": "query",
        "description": "names, separated by commas",
        "schema": {"type": "string"},
    }
    responses = responses_of(answer, errors)
    every = _get("Metrics", "Which metrics are there, and several at once", "See docs/metrics.md.", responses)
    paths = {"/v1/metrics": {"get": every | {"operationId": "read_metrics", "parameters": [names, *METRIC_WORDS]}}}
    for each in found:
        grain = {
            "name": "grain",
            "in": "query",
            "description": "the length of periods",
            "schema": {"enum": each.grains},
        }
        one = _get("Metrics", each.metric.name, each.metric.description, responses_with_rows(answer, errors))
        words = [*(_filter(column) for column in each.dimensions), *([grain] if each.grains else []), *METRIC_WORDS]
        one |= {"operationId": f"read_metric_{each.metric.name}", "parameters": words}
        paths[f"/v1/metrics/{quote(each.metric.name)}"] = {"get": one}
    return paths


def _query(*, in_background: bool) -> dict[str, Any]:
    sql = {"type": "string", "maxLength": MOST_SQL_BYTES, "description": "one SELECT in DuckDB's dialect"}
    limit = limit_of_rows(MOST_ROWS)
    body = {
        "type": "object",
        "required": ["sql"],
        "additionalProperties": False,
        "properties": {"sql": sql, "limit": limit | {"description": "maximum number of rows; or all, for a stream"}},
    }
    answer = {
        "type": "object",
        "required": ["columns", "versions", "is_truncated", "rows"],
        "properties": {
            **RESULT,
            "rows": {"type": "array", "items": {"type": "object"}},
        },
    }
    responses = responses_with_rows(answer, ("400", "401", "403", "406", "408", "413", "414", "429", "503"))
    both = {
        "tags": ["SQL"],
        "description": "The rows of one SELECT over the tables that the caller may read.",
        "responses": responses,
    }
    return {
        "post": both
        | {
            "summary": "query",
            "operationId": "query",
            **({"parameters": [PREFER], "responses": responses | accepted()} if in_background else {}),
            "requestBody": {
                "required": True,
                "content": {JSON: {"schema": body, "example": {"sql": "select 1 as one"}}},
            },
        },
        "get": both
        | {
            "summary": "query by URL",
            "operationId": "query_by_url",
            "parameters": [
                {"name": "sql", "in": "query", "required": True, "schema": sql | {"maxLength": 2_000}},
                {"name": "limit", "in": "query", "schema": limit},
            ],
        },
    }


def _table(definition: StoredDefinition, schema: Schema | None) -> dict[str, Any]:
    columns = () if schema is None else schema.columns
    row = {"type": "object", "properties": {c.name: nullable(json_type(c)) for c in columns}}
    answer = {
        "type": "object",
        "required": ["table", "version", "rows", "next"],
        "properties": {
            "table": {"const": definition.name},
            "version": {"type": "integer"},
            "rows": {"type": "array", "items": row},
            "count": {"type": ["integer", "null"], "description": "with count=: the rows of all pages"},
            "next": {"type": ["string", "null"], "description": "link to the next page"},
        },
    }
    responses = responses_with_rows(answer, ("400", "401", "404", "406", "410", "414", "429", "503"))
    operation = _get("Tables", definition.name, definition.description, responses)
    operation["description"] = f"{definition.description}\n\n{_FILTERS}".strip()
    operation["x-kind"] = definition.kind
    operation["parameters"] = [*(_filter(column) for column in columns), *WORDS]
    return operation


def _changes(definition: StoredDefinition, schema: Schema | None) -> dict[str, Any]:
    told = (Column(CHANGE_TYPE, "VARCHAR"), Column(CHANGED, "VARCHAR[]"))
    operation = _table(definition, None if schema is None else Schema((*told, *schema.columns)))
    operation["description"] = f"The rows of {definition.name} that differ from an earlier version.\n\n{_FILTERS}"
    operation["summary"], operation["operationId"] = (
        f"changes of {definition.name}",
        f"read_changes_of_{definition.name}",
    )
    operation["parameters"].append(CHANGES_SINCE)
    return operation


def _model(artifact: Model, models: ServedModels, lookup: FeatureLookup) -> dict[str, Any]:
    try:
        predictor = models.predictor_or_none(artifact.name)
    except StorageError:
        predictor = None
    inputs: Mapping[str, str] = {} if predictor is None else predictor.inputs
    looked_up = lookup.names(artifact.name).intersection(inputs)
    asked = (*lookup.request_columns(artifact.name), *((artifact.unit,) if artifact.unit else ()))
    others = {} if predictor is None else {n: "" for n in asked if n not in inputs}
    row = {
        "type": "object",
        "required": [n for n in (*others, *inputs) if n not in looked_up and n != artifact.unit],
        "additionalProperties": False,
        "properties": {
            name: nullable(_FEATURES.get(kind, {})) | ({"description": _LOOKED_UP} if name in looked_up else {})
            for name, kind in (others | dict(inputs)).items()
        },
    }
    rows = {"type": "array", "maxItems": MOST_PREDICTED, "items": row}
    returns = {"type": "boolean", "default": False, "description": "return the features that were looked up"}
    explain = {"type": "boolean", "default": False, "description": "return what each feature adds to a prediction"}
    flags = {"return_features": returns, "explain": explain}
    body = {"type": "object", "required": ["rows"], "properties": {"rows": rows, **flags}}
    example = {
        "rows": [{n: _EXAMPLES.get(kind) for n, kind in inputs.items() if n not in looked_up} | dict.fromkeys(others)]
    }
    return {
        "tags": ["Models"],
        "summary": artifact.name,
        "description": artifact.description,
        "x-kind": artifact.kind,
        "operationId": f"predict_{artifact.name}",
        "requestBody": {"required": True, "content": {JSON: {"schema": body, "example": example}}},
        "responses": responses_of(
            reference("Predictions"), ("400", "401", "403", "404", "409", "413", "422", "429", "503")
        ),
    }


def _get(tag: str, summary: str, description: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {
        "tags": [tag],
        "summary": summary,
        "description": description,
        "operationId": f"read_{summary}" if tag == "Tables" else tag.lower(),
        "responses": responses,
    }


def _filter(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "in": "query",
        "description": f"{column.type}; for example `eq.{_sample(column)}`",
        "schema": {"type": "string", "x-column": column.type},
    }


def _sample(column: Column) -> str:
    sample = sample_of(column)
    return "1" if sample is None else sample if isinstance(sample, str) else json.dumps(sample)
