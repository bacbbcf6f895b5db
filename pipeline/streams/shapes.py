"""Which operator a statement is, by its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlglot import exp

from pipeline.core.definitions import Streaming
from pipeline.core.schema import Schema
from pipeline.streams.operator import Operator


@dataclass(frozen=True)
class Streamed:
    """A streamed input of a statement: its columns, and the one that says when a row happened, if one does."""

    schema: Schema
    time: str | None = None


def operator_of(tree: exp.Query, inputs: Mapping[str, Streamed], streaming: Streaming) -> Operator | str:
    """Return what streams a statement that does not work row by row, or why nothing does."""
    del tree, streaming
    missing = next((name for name, given in inputs.items() if given.time is None), None)
    if missing is not None:
        return f"{missing!r} has no event time: give event_time= with one of its columns"
    return "rows that meet others have no streamed form yet"
