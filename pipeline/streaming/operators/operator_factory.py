"""Chooses the operator for a SQL statement."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.core.definitions import Streaming
from pipeline.core.refusal import Refusal
from pipeline.core.schema import Schema
from pipeline.kernel.sql import SqlTransform
from pipeline.streaming.operators import grouped_statement
from pipeline.streaming.operators.batch_form import StreamedInput
from pipeline.streaming.operators.joins import join_operator
from pipeline.streaming.operators.operator import Operator


def operator_of(
    transform: SqlTransform, inputs: Mapping[str, StreamedInput], lookups: Mapping[str, Schema], streaming: Streaming
) -> Operator | Refusal:
    """Return the operator for a statement that needs state, or why it cannot be streamed and what to do.

    `inputs` are the streamed inputs, the driving one first; `lookups` are the columns of the other tables it reads.
    """
    if len(inputs) > 1:
        return join_operator(transform.tree, inputs)
    (name,) = inputs
    schemas = {name: inputs[name].schema, **lookups}
    return grouped_statement.operator_of(transform, name, schemas, streaming, inputs[name].event_time)
