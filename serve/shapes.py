"""The parts of the OpenAPI document that all projects share."""

from __future__ import annotations

from typing import Any

from serve.query import DEFAULT_LIMIT, MOST_OFFSET, MOST_ROWS


def _word(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


WORDS = (
    _word("select", "columns, separated by commas", type="string"),
    _word("order", "columns, separated by commas, each optionally with .desc", type="string"),
    _word("limit", "maximum number of rows", type="integer", minimum=1, maximum=MOST_ROWS, default=DEFAULT_LIMIT),
    _word("offset", "number of rows to skip", type="integer", minimum=0, maximum=MOST_OFFSET, default=0),
    _word("version", "table version (default: the newest)", type="integer", minimum=0),
    _word("at", "a time, or a duration ago such as -2h: the version that was the newest then", type="string"),
)
REASONS = {
    "400": "a parameter is invalid",
    "404": "there is no such table, version or model",
    "406": "the media type is not supported",
    "409": "the model has no champion yet, or its feature views have changed",
    "410": "the version is no longer available",
    "413": "too many rows in one request",
    "414": "the query is too long",
    "422": "the model does not accept the rows",
    "503": "the lake, the model store or the online store cannot be read, or the request exceeds a limit",
}
_TEXT, _MAYBE, _COUNT = {"type": "string"}, {"type": ["string", "null"]}, {"type": ["integer", "null"]}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "properties": {
            "error": {"type": "object", "properties": {"problem": _TEXT, "got": _MAYBE, "do": _MAYBE}},
        },
    },
    "Health": {
        "type": "object",
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
