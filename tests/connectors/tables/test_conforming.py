"""Rows keep their values under the columns of their table."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.connectors.tables.conforming import by_name, conformed
from pipeline.core.errors import Place
from tests.rigs import proofs

ITEMS = st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=3)
STRUCT = st.fixed_dictionaries({"a": st.none() | st.integers(-9, 9), "l": st.none() | ITEMS})
ROW = st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-(2**31), 2**31 - 1),
        "items": st.none() | st.lists(st.none() | STRUCT, max_size=3),
        "s": st.none() | STRUCT,
        "m": st.none() | st.lists(st.tuples(st.text(max_size=2), st.none() | STRUCT), max_size=2),
    }
)


def struct(kind: pa.DataType, *more: pa.Field) -> pa.DataType:
    return pa.struct([pa.field("a", kind), pa.field("l", pa.list_(kind)), *more])


def schema(kind: pa.DataType, *more: pa.Field) -> pa.Schema:
    inner = struct(kind, *more)
    return pa.schema([("n", kind), ("items", pa.list_(inner)), ("s", inner), ("m", pa.map_(pa.string(), inner)), *more])


@settings(max_examples=proofs.examples(60, 2000), deadline=None)
@given(st.lists(ROW, max_size=8), st.integers(0, 3))
def test_values_are_kept_when_columns_are_widened_and_added(rows, begin):
    new = pa.field("new", pa.string())
    batch = pa.RecordBatch.from_pylist(rows, schema(pa.int32())).slice(begin)
    wanted = schema(pa.int64(), new)

    result = conformed(batch, wanted, by_name, {}, Place("t"))

    result.validate(full=True)
    assert result.schema == wanted
    assert result.to_pylist() == pa.RecordBatch.from_pylist(batch.to_pylist(), wanted).to_pylist()
