"""The parts of the OpenAPI document that all projects share."""

from __future__ import annotations

from typing import Any

from pipeline.core.schema import Column
from serve.problems import MEDIA_TYPE as PROBLEM
from serve.queries.formats import JSON, MEDIA_TYPES
from serve.queries.parameters import MOST_OFFSET
from serve.queries.query import DEFAULT_LIMIT, MOST_ROWS


def _word(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def limit_of_rows(default: int) -> dict[str, Any]:
    """Return the schema of `limit`: a number of rows, or all."""
    return {"oneOf": [{"type": "integer", "minimum": 1, "maximum": MOST_ROWS}, {"const": "all"}], "default": default}


WORDS = (
    _word(
        "select",
        "columns, separated by commas; `name:column` renames, `column.sum()` and `count()` aggregate rows that are equal in the others, "
        "and `table(column)` adds related rows",
        type="string",
    ),
    _word("order", "columns, separated by commas, each optionally with .desc", type="string"),
    _word(
        "limit",
        f"maximum number of rows, up to {MOST_ROWS}; or all, for a stream in any media type but JSON",
        **limit_of_rows(DEFAULT_LIMIT),
    ),
    _word("cursor", "where the page begins; taken from the link to it", type="string"),
    _word("distinct", "whether equal rows are returned once", enum=["false", "true"], default="false"),
    _word("or", "conditions of which one must hold: (a.eq.1,b.gt.2)", type="string"),
    _word("and", "conditions of which all must hold", type="string"),
    _word("count", "whether the rows of all pages are counted, or estimated", enum=["none", "exact", "planned"]),
    _word("offset", "number of rows to skip", type="integer", minimum=0, maximum=MOST_OFFSET, default=0),
    _word("version", "table version (default: the newest)", type="integer", minimum=0),
    _word("at", "a time, or a duration ago such as -2h: the version that was the newest then", type="string"),
)
CHANGES_SINCE = {
    "required": True,
    **_word(
        "since", "the earlier version: its number, or a time, or a duration ago such as -2h", type="string", minLength=1
    ),
}
METRIC_WORDS = (
    _word("dimensions", "columns to group by, separated by commas", type="string"),
    _word("from", "the first time that counts", type="string"),
    _word("to", "the first time that does not count any more", type="string"),
    _word("order", "columns of the result, separated by commas, each optionally with .desc", type="string"),
    _word(
        "limit",
        f"maximum number of rows, up to {MOST_ROWS}; or all, for a stream in any media type but JSON",
        **limit_of_rows(MOST_ROWS),
    ),
)
REASONS = {
    "400": "a parameter is invalid",
    "401": "the key or token is missing or not valid",
    "403": "the key or token lacks a scope",
    "404": "there is no such table, version, metric, model or query",
    "406": "the media type is not supported",
    "408": "the body does not come",
    "409": "the model has no champion yet, its feature views have changed, or the query has no rows yet",
    "410": "the version is no longer available, or what the caller may read has changed",
    "413": "too many rows in one request",
    "414": "the query is too long",
    "429": "the caller sends more requests than it may",
    "422": "the model does not accept the rows",
    "503": "the lake, the model store or the online store cannot be read, or the request exceeds a limit",
}
SECURITY: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "an API key, or a token of the identity provider"},
    "basic": {"type": "http", "scheme": "basic", "description": "an API key as the password"},
}
_TEXT, _MAYBE, _COUNT = {"type": "string"}, {"type": ["string", "null"]}, {"type": ["integer", "null"]}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
RESULT: dict[str, Any] = {
    "columns": {"type": "array", "items": {"type": "object"}},
    "versions": {"type": "object", "additionalProperties": {"type": "integer"}},
    "is_truncated": {"type": "boolean", "description": "whether there are more rows than the limit"},
}
"""What is told of rows that are computed."""
SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            **dict.fromkeys(("type", "title", "detail", "got", "do", "instance"), _TEXT),
            "status": {"type": "integer"},
        },
    },
    "Health": {
        "type": "object",
        "required": ["status"],
        "description": "names and reasons for keys with the scope operate, otherwise only the status",
        "properties": {
            "status": {"enum": ["ok", "degraded", "down"]},
            "project": _TEXT,
            "env": _TEXT,
            "tables": {"type": "object", "additionalProperties": _COUNT},
            "models": {"type": "object", "additionalProperties": _MAYBE},
            "reasons": {"type": "array", "items": _TEXT},
        },
    },
    "Tables": {
        "type": "object",
        "properties": {
            "tables": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        **dict.fromkeys(("name", "kind", "layer", "description"), _TEXT),
                        "key": {"type": "array", "items": _TEXT},
                        "version": _COUNT,
                        "rows": _COUNT,
                        "columns": {
                            "type": "array",
                            "items": {"type": "object", "properties": {"name": _TEXT, "type": _TEXT}},
                        },
                    },
                },
            }
        },
    },
    "Predictions": {
        "type": "object",
        "properties": {
            "model": _TEXT,
            "version": _TEXT,
            "features": {
                "type": "array",
                "description": "with return_features: for each row, the features that were looked up or computed",
                "items": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "properties": {"value": {}, "event_time": {"type": ["string", "null"], "format": "date-time"}},
                    },
                },
            },
            "explanations": {
                "type": "array",
                "description": "with explain: for each row, what makes its score: the sum of the base and of what the features add",
                "items": {
                    "type": "object",
                    "required": ["base", "features"],
                    "properties": {
                        "base": {"type": "number"},
                        "features": {"type": "object", "additionalProperties": {"type": "number"}},
                    },
                },
            },
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "probability": _SHARE,
                        "label": {"type": ["boolean", "string", "integer"]},
                        "probabilities": {"type": "object", "additionalProperties": _SHARE},
                        "value": {"type": "number"},
                    },
                },
            },
        },
    },
}

_TYPES: dict[str, dict[str, Any]] = {
    "BOOLEAN": {"type": "boolean"},
    "TINYINT": {"type": "integer"},
    "SMALLINT": {"type": "integer"},
    "INTEGER": {"type": "integer", "format": "int32"},
    "BIGINT": {"type": "integer", "format": "int64"},
    "FLOAT": {"type": "number"},
    "DOUBLE": {"type": "number"},
    "DATE": {"type": "string", "format": "date"},
    "TIMESTAMP": {"type": "string"},
    "TIMESTAMPTZ": {"type": "string", "format": "date-time"},
    "VARCHAR": {"type": "string"},
    "BLOB": {"type": "string", "contentEncoding": "base64"},
}
_SAMPLES: dict[str, Any] = {
    "boolean": True,
    "integer": 1,
    "number": 1.5,
    "string": "a",
    "date": "2013-07-01",
    "date-time": "2013-07-01T12:00:00Z",
    "TIMESTAMP": "2013-07-01T12:00:00",
    "BLOB": "YQ==",
}


def json_type(column: Column) -> dict[str, Any]:
    """Return the schema of a column's values, without null; empty if they can be anything."""
    return {"type": "number"} if column.type.startswith("DECIMAL") else _TYPES.get(column.type, {})


def sample_of(column: Column) -> Any:
    """Return a value of a column for an example, as JSON has it; `None` if it can be anything."""
    kind = json_type(column)
    names = (column.type, kind.get("format", ""), kind.get("type", ""))
    return next((_SAMPLES[name] for name in names if name in _SAMPLES), None)


def nullable(kind: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that null fits too."""
    return kind | {"type": [kind["type"], "null"]} if "type" in kind else kind


def reference(name: str) -> dict[str, Any]:
    """Return what stands for one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def responses_of(answer: dict[str, Any], errors: tuple[str, ...]) -> dict[str, Any]:
    """Return the responses of an operation: JSON of a schema, and problems with these statuses."""
    responses: dict[str, Any] = {"200": {"description": "success", "content": {JSON: {"schema": answer}}}}
    return responses | problems_of(errors)


def responses_with_rows(answer: dict[str, Any], errors: tuple[str, ...]) -> dict[str, Any]:
    """Return the responses of an operation whose rows are also there in other media types than JSON."""
    responses = responses_of(answer, errors)
    responses["200"]["content"] = {each: {} for each in MEDIA_TYPES} | responses["200"]["content"]
    return responses


def problems_of(errors: tuple[str, ...]) -> dict[str, Any]:
    """Return the responses for errors."""
    wrong = {"content": {PROBLEM: {"schema": reference("Problem")}}}
    return {status: {"description": REASONS[status], **wrong} for status in errors}
