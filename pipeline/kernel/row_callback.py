"""A SQL function that passes rows to Python, for the few rows of a statement that need it."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa
from duckdb.func import FunctionNullHandling, PythonUDFType


@contextmanager
def row_callback(
    con: duckdb.DuckDBPyConnection, receive: Callable[..., pa.Array], types: Sequence[str]
) -> Iterator[str]:
    """Register a function with arguments of these types that returns BOOLEAN, and yield its name.

    `receive` gets one Arrow array for each argument, with the rows of a block, and returns one value for each. In a branch
    of CASE, DuckDB evaluates a function and its arguments only for the rows of that branch, so rows of other branches cost
    nothing. A statement with several threads calls it from each. Above joins and set operations, call it in a projection:
    DuckDB may move a filter, with its function, below them, to rows that they would remove or multiply.
    """

    @functools.wraps(receive)  # DuckDB reads the number of its parameters
    def called(*arguments: pa.Array | pa.ChunkedArray) -> pa.Array:
        return receive(*(a.combine_chunks() if isinstance(a, pa.ChunkedArray) else a for a in arguments))

    name = f"headwater_receive_{secrets.token_hex(8)}"
    con.create_function(
        name,
        called,
        list(types),
        "BOOLEAN",
        type=PythonUDFType.ARROW,
        null_handling=FunctionNullHandling.SPECIAL,
        side_effects=True,  # otherwise, DuckDB may call it once for equal arguments
    )
    try:
        yield name
    finally:
        con.remove_function(name)
