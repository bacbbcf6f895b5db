"""Which operator a statement is, by its shape."""

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
    """Return what streams a statement that does not work row by row, or why nothing does and the way out.

    `inputs` are those that are streamed, the driving one first; `lookups` are the columns of the other tables it reads.
    """
    if len(inputs) > 1:
        return join_operator(transform.tree, inputs)
    (name,) = inputs
    schemas = {name: inputs[name].schema, **lookups}
    return grouped_statement.operator_of(transform, name, schemas, streaming, inputs[name].event_time)
