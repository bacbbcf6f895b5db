"""Delimited files whose texts Arrow converts to types, faster than texts can be cast and tested one by one.

Arrow converts a text whole or raises, so what it gives is what `values` gives, but for four kinds of text:

| text | comes as | so |
| --- | --- | --- |
| `0x1F` for an integer | 31 | integers of a file with `0x` in it come as texts |
| `1e-400` for a `DOUBLE` | 0 | a file that gave zero is searched for such exponents, and for long runs of zeros |
| `1e400` and `nan(1)` for a `DOUBLE` | infinite, and no number | a file that gave one is read otherwise, for `inf` and `nan` too |
| `0000-01-01` for a `DATE` | a day of the year 0 | the same |

A column whose first values hold one of these, or a text that Arrow does not convert, comes as texts.
"""

from __future__ import annotations

import io
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from pipeline.core.schema import Column, Schema
from pipeline.kernel.types import arrow_type
from pipeline.sources.cutting import Bytes, bytes_of, holds
from pipeline.sources.delimited import Dialect

_FEED, _RETURN, _QUOTE, _NOUGHT, _X = b'\n\r"0x'
_LOWER = 32
"""The bit that makes a letter a small one."""
_HEAD_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
"""How much is converted at a time; a longer line raises."""
_NUMBERS = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "DOUBLE"}
)
_AS_WRITTEN = frozenset({"DATE", "TIMESTAMP", "BOOLEAN"})
"""The types that take the same texts where they were inferred."""
_FIRST = {pa.date32(): date.min, pa.timestamp("us"): datetime.min}  # noqa: DTZ901 - without a zone, as the type
"""The first time of the year 1; not as Arrow's, for the first one that Arrow makes imports pandas."""
_TRUE, _FALSE = (
    [form for word in words for form in dict.fromkeys((word, word.upper(), word.title()))]
    for words in (("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0"))
)
_CHUNK_BYTES = 1 << 18
"""What a core keeps at hand."""
_TINY = (rb"e-[0-9]{3,}(?![0-9A-Za-z-])", rb"E-[0-9]{3,}(?![0-9A-Za-z-])", b"0" * 200)
"""Patterns, of which a number that is less than the least `DOUBLE` has one."""


@dataclass(frozen=True)
class Form:
    """How a delimited file is converted: its dialect, and its columns in its order, each with its type."""

    dialect: Dialect
    types: Mapping[str, pa.DataType]

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return pa.schema(list(self.types.items()))

    def open(self, file: str | io.BytesIO, names: Sequence[str] | None = None) -> csv.CSVStreamingReader:
        """Return batches of a file, or of some of its columns; raise `pa.ArrowInvalid` for what cannot be converted."""
        nulls = list(self.dialect.null_values)
        return csv.open_csv(
            file,
            csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                skip_rows=self.dialect.header_lines,
                column_names=list(self.types),
            ),
            csv.ParseOptions(delimiter=self.dialect.delimiter),
            csv.ConvertOptions(
                column_types=self.types,
                null_values=nulls,
                strings_can_be_null=True,
                true_values=[text for text in _TRUE if text not in nulls],
                false_values=[text for text in _FALSE if text not in nulls],
                include_columns=list(self.types if names is None else names),
            ),
        )


@dataclass
class Converted:
    """The rows of a delimited file as a stream of Arrow, anew each time that they are asked for."""

    path: str
    form: Form
    rows: int = 0
    """How many came so far."""
    has_zero: bool = False
    has_odd: bool = False
    """Whether a number or a time came that may not be what was written."""

    def __arrow_c_schema__(self) -> object:
        """Return the columns."""
        return self.form.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows from the first on."""
        return pa.RecordBatchReader.from_batches(self.form.schema, self._batches()).__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with self.form.open(self.path) as reader:
            for batch in reader:
                self.rows += batch.num_rows
                self.has_zero |= any(map(_has_zero, batch.columns))
                self.has_odd |= any(map(_has_odd, batch.columns))
                yield batch

    def faults(self, rows: int) -> int:
        """Return how far what came is from so many rows, each as it was written."""
        return abs(self.rows - rows) + self.has_odd + (self.has_zero and self._has_tiny())

    def _has_tiny(self) -> bool:
        with Path(self.path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return any(re.search(pattern, data) for pattern in _TINY)


@dataclass(frozen=True)
class Faults:
    """One row of one number: the faults of what came by the time that it is asked for."""

    of: Converted
    rows: int

    def __arrow_c_schema__(self) -> object:
        """Return the column."""
        return pa.schema({"faults": pa.int64()}).__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the number."""
        return pa.table({"faults": [self.of.faults(self.rows)]}).__arrow_c_stream__(requested_schema)


def form_of(path: str, dialect: Dialect, names: Sequence[str], schema: Schema) -> Form | None:
    """Return how a file is converted, or `None` where no column can be, or the file is an odd one."""
    known = set(names)
    wanted = {c.name: arrow_type(c.type) for c in schema.columns if c.name in known and _may_convert(c)}
    if not wanted or not _is_regular(path, dialect.delimiter):
        return None
    if any(map(pa.types.is_integer, wanted.values())) and _has_hexadecimal(bytes_of(path)):
        wanted = {name: kind for name, kind in wanted.items() if not pa.types.is_integer(kind)}
    with Path(path).open("rb") as file:
        head = file.read(_HEAD_BYTES)
    head = head[: head.rfind(b"\n") + 1]
    as_text = {name: pa.string() for name in names}
    kept = _converted(head, Form(dialect, as_text | wanted), tuple(wanted))
    return Form(dialect, as_text | {name: wanted[name] for name in kept}) if kept else None


def _is_regular(path: str, delimiter: str) -> bool:
    """Return whether quotes stand only around fields, or doubled in them, and all lines end in the same way."""
    data = bytes_of(path)
    if holds(path, b"\r", 0):
        returns, feeds = (np.flatnonzero(data == byte) for byte in (_RETURN, _FEED))
        if len(returns) != len(feeds) or (returns + 1 != feeds).any():
            return False
    if not holds(path, b'"', 0):
        return True
    quotes = np.flatnonzero(data == _QUOTE)
    if len(quotes) % 2:
        return False
    may_stand = np.zeros(256, dtype=bool)
    may_stand[[_QUOTE, _FEED, _RETURN, ord(delimiter)]] = True
    before, behind = quotes[0::2] - 1, quotes[1::2] + 1
    before, behind = before[before >= 0], behind[behind < len(data)]
    return bool(may_stand[data[before]].all() and may_stand[data[behind]].all())


def _may_convert(column: Column) -> bool:
    return column.type in _AS_WRITTEN or (column.type in _NUMBERS and not column.is_inferred)


def _converted(head: bytes, form: Form, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those columns of which the first lines are converted to just what was written."""
    if not names or not head:
        return ()
    try:
        with form.open(io.BytesIO(head), names) as reader:
            found = reader.read_all()
    except pa.ArrowInvalid:
        half = len(names) // 2
        return _converted(head, form, names[:half]) + _converted(head, form, names[half:]) if half else ()
    return tuple(name for name in names if not (_has_zero(found.column(name)) or _has_odd(found.column(name))))


def _has_hexadecimal(data: Bytes) -> bool:
    """Return whether `0x` or `0X` is anywhere in a file."""
    for begin in range(0, len(data), _CHUNK_BYTES):
        chunk = data[begin : begin + _CHUNK_BYTES + 1]
        if (((chunk[1:] | _LOWER) == _X) & (chunk[:-1] == _NOUGHT)).any():
            return True
    return False


def _has_zero(column: pa.Array | pa.ChunkedArray) -> bool:
    return bool(pa.types.is_floating(column.type) and pc.any(pc.equal(column, 0)).as_py())


def _has_odd(column: pa.Array | pa.ChunkedArray) -> bool:
    """Return whether a number is none or infinite, or a time is before the year 1."""
    if pa.types.is_floating(column.type):
        return bool(pc.any(pc.invert(pc.is_finite(column))).as_py())
    first = _FIRST.get(column.type)
    return first is not None and bool(pc.any(pc.less(column, pa.scalar(first, column.type))).as_py())
