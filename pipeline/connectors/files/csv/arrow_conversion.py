"""Converts delimited files with Arrow, which is faster than casting and testing each text.

Arrow converts a text without loss or raises, so its results equal those of `values`, with four exceptions:

| text | Arrow's result | handling |
| --- | --- | --- |
| `0x1F` for an integer | 31 | integers of a file that contains `0x` are read as text |
| `1e-400` for a `DOUBLE` | 0 | doubles of a file with such an exponent, or a long run of zeros, are read as text |
| `1e400` and `nan(1)` for a `DOUBLE` | infinity and NaN | a row with one is rejected here, also with `inf` and `nan` |
| `0000-01-01` for a `DATE` | a day of the year 0 | the same |

A column with infinity, NaN, or text that Arrow does not convert in the first lines is read as text.

Do not convert Python values to Arrow here: the first conversion imports pandas, which takes longer than reading small
files.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from pipeline.connectors.files.byte_ranges import Bytes, mapped_bytes
from pipeline.connectors.files.csv.byte_traits import ByteTraits
from pipeline.connectors.files.csv.reader import Dialect
from pipeline.connectors.files.record_index import RecordIndex, lines_of
from pipeline.connectors.values import in_years
from pipeline.core.schema import Column, Schema
from pipeline.kernel.types import arrow_type

Positions = npt.NDArray[np.intp]

_FEED, _RETURN, _QUOTE = b'\n\r"'
IS_BAD = "_headwater_bad"
"""The column that is true for a line that cannot be converted."""
_ROW = re.compile(r"\bRow #(\d+):")
"""The number of a record, from 1, in an error of the conversion."""
_FEW_BAD, _MOST_BAD = 20, 0.0004
"""The number and the share of bad lines that are found one by one; with more, reading the file again is faster."""
_HEAD_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 18
"""Block size of the conversion; a longer line raises an error."""
_NUMBERS = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "DOUBLE"}
)
_AS_WRITTEN = frozenset({"DATE", "TIMESTAMP", "BOOLEAN"})
"""Types that accept the same texts if they were inferred."""
_TRUE, _FALSE = (
    [form for word in words for form in dict.fromkeys((word, word.upper(), word.title()))]
    for words in (("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0"))
)
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ConversionSpec:
    """The conversion of a delimited file: its dialect, and its columns in order with their types."""

    dialect: Dialect
    types: Mapping[str, pa.DataType]

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return pa.schema(list(self.types.items()))

    def open(
        self, file: pa.NativeFile, names: Sequence[str] | None = None, *, header_lines: int = 0, skips: bool = False
    ) -> csv.CSVStreamingReader:
        """Return batches of text, or of some of its columns; raise `pa.ArrowInvalid` for inconvertible values.

        A record with another number of columns raises the same error, or is skipped (`skips`).
        """
        nulls = list(self.dialect.null_values)
        return csv.open_csv(
            file,
            csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                skip_rows=header_lines,
                column_names=list(self.types),
            ),
            csv.ParseOptions(
                delimiter=self.dialect.delimiter, invalid_row_handler=(lambda _: "skip") if skips else None
            ),
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
class ConvertedRows:
    """The rows of a delimited file as an Arrow stream, which is read again for each scan.

    A line that cannot be converted is a row of nulls with `IS_BAD`, if each record of the file is one line; otherwise, the
    stream raises an error.
    """

    path: str
    form: ConversionSpec
    rows: int = 0
    """The number of rows so far."""
    bad: int = 0
    """The number of bad lines that were found so far."""

    @property
    def schema(self) -> pa.Schema:
        """The columns, followed by `IS_BAD`."""
        return self.form.schema.append(pa.field(IS_BAD, pa.bool_()))

    def __arrow_c_schema__(self) -> object:
        """Return the columns."""
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows from the beginning."""
        return pa.RecordBatchReader.from_batches(self.schema, self._batches()).__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """Convert the file up to a bad line, mark this line, and go on after it."""
        lines: RecordIndex | None = None
        head = done = self.form.dialect.header_lines
        first = begin = 0
        while True:
            try:
                file = pa.memory_map(self.path)  # not closed here: after an error, threads of Arrow may still read it
                file.seek(begin)
                with self.form.open(file, header_lines=0 if begin else head) as reader:
                    for batch in reader:
                        done += batch.num_rows
                        yield self._good_rows(batch)
            except pa.ArrowInvalid as error:
                lines = lines or _one_line_records(self.path)
                if lines is None:
                    raise
                line = first + self._bad_index(error, lines.count - first)
            else:
                return
            yield from self._lines(lines, done, line)
            yield self._bad_row()
            first = done = line + 1
            begin = int(lines.bounds[done])
            if done == lines.count:
                return

    def _lines(self, lines: RecordIndex, begin: int, end: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of lines, from the 0-based `begin` to `end` (exclusive)."""
        waiting = [(begin, end, False)]
        while waiting:
            begin, end, is_bad = waiting.pop()
            if is_bad:
                yield self._bad_row()
                continue
            text = pa.py_buffer(lines.data)[int(lines.bounds[begin]) : int(lines.bounds[end])]
            try:
                with self.form.open(pa.BufferReader(text)) as reader:
                    batches = list(reader)
            except pa.ArrowInvalid as error:
                if begin < end:  # otherwise, the text is empty
                    line = begin + self._bad_index(error, end - begin)
                    waiting += [(line + 1, end, False), (line, line + 1, True), (begin, line, False)]
            else:
                yield from map(self._good_rows, batches)

    def _bad_index(self, error: pa.ArrowInvalid, rows: int) -> int:
        """Return the 0-based index of the row that an error names; raise the error if it names none, or after too many."""
        named = _ROW.search(str(error))
        self.bad += 1
        if named is None or not 0 < int(named[1]) <= rows or self.bad > _FEW_BAD + _MOST_BAD * self.rows:
            raise error
        return int(named[1]) - 1

    def _good_rows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Count the rows of a batch, and add `IS_BAD`."""
        self.rows += batch.num_rows
        return self._with_marks(batch.columns, batch.num_rows, 0)

    def _bad_row(self) -> pa.RecordBatch:
        """Count a bad line, and return its row."""
        self.rows += 1
        return self._with_marks([pa.nulls(1, kind) for kind in self.form.types.values()], 1, 1)

    def _with_marks(self, columns: Sequence[pa.Array], rows: int, first_byte: int) -> pa.RecordBatch:
        bits = bytes([first_byte, *bytes(rows // 8)])
        marks = pa.Array.from_buffers(pa.bool_(), rows, [None, pa.py_buffer(bits)])
        return pa.RecordBatch.from_arrays([*columns, marks], schema=self.schema)

    def faults(self, rows: int) -> int:
        """Return the difference between the number of rows and the expected number."""
        return abs(self.rows - rows)


@dataclass(frozen=True)
class FaultCount:
    """A stream of one row with one number: the faults at the time when it is scanned."""

    of: ConvertedRows
    rows: int

    def __arrow_c_schema__(self) -> object:
        """Return the column."""
        return pa.schema({"faults": pa.int64()}).__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the number."""
        number = pa.py_buffer(struct.pack("=q", self.of.faults(self.rows)))
        faults = pa.Array.from_buffers(pa.int64(), 1, [None, number])
        return pa.table([faults], ["faults"]).__arrow_c_stream__(requested_schema)


def conversion_spec(
    path: str, dialect: Dialect, names: Sequence[str], schema: Schema, traits: ByteTraits
) -> ConversionSpec | None:
    """Return the conversion of a file, or `None` if no column can be converted or the file is unusual."""
    known = set(names)
    if IS_BAD in known:
        return None
    types = {c.name: arrow_type(c.type) for c in schema.columns if c.name in known and _may_convert(c)}
    if not types or not _is_regular(path, dialect.delimiter, traits):
        return None
    others = ((pa.types.is_integer, traits.has_hexadecimal), (pa.types.is_floating, traits.may_underflow))
    for is_one, has_other in others:
        if has_other:
            types = {name: kind for name, kind in types.items() if not is_one(kind)}
    with Path(path).open("rb") as file:
        head = file.read(_HEAD_BYTES)
    head = head[: head.rfind(b"\n") + 1]
    as_text = {name: pa.string() for name in names}
    kept = _convertible(head, ConversionSpec(dialect, as_text | types), tuple(types))
    return ConversionSpec(dialect, as_text | {name: types[name] for name in kept}) if kept else None


def is_as_written(column: Column, value: str) -> str | None:
    """Return SQL that is true for a converted value of a column, unless it may differ from the text."""
    tests = [f"isfinite({value})"] if column.type == "DOUBLE" else in_years(column, value)
    return f"coalesce({' and '.join(tests)}, true)" if tests else None


def _is_regular(path: str, delimiter: str, traits: ByteTraits) -> bool:
    """Return whether quotes occur only around fields, or doubled in them, and all line ends are the same."""
    data = mapped_bytes(path)
    if traits.has_return and (
        data[0] == _FEED
        or not all(
            np.array_equal(returns + 1, feeds)
            for returns, feeds in zip(_byte_positions(data, _RETURN, 0), _byte_positions(data, _FEED, 1), strict=True)
        )
    ):
        return False
    if not traits.has_quote:
        return True
    may_stand = np.zeros(256, dtype=bool)
    may_stand[[_QUOTE, _FEED, _RETURN, ord(delimiter)]] = True
    is_open = 0
    for quotes in _byte_positions(data, _QUOTE, 0):
        opening, closing = quotes[is_open::2], quotes[1 - is_open :: 2]
        is_open = (is_open + len(quotes)) % 2
        before, behind = data[opening[opening > 0] - 1], data[closing[closing < len(data) - 1] + 1]
        if not (may_stand[before].all() and may_stand[behind].all()):
            return False
    return not is_open


def _one_line_records(path: str) -> RecordIndex | None:
    """Return the lines of a file, or `None` if one of them may be blank, or a part of a record."""
    lines = lines_of(path)
    has_parts = (lines.quotes_between(lines.bounds[:-1], lines.bounds[1:]) % 2).any()
    return None if has_parts or lines.blank().any() else lines


def _byte_positions(data: Bytes, byte: int, begin: int) -> Iterator[Positions]:
    """Yield the offsets of a byte, one chunk after the other."""
    is_one = np.empty(_CHUNK_BYTES, np.bool_)
    for start in range(begin, len(data) + begin, _CHUNK_BYTES):
        chunk = data[start : start + _CHUNK_BYTES]
        yield np.flatnonzero(np.equal(chunk, byte, out=is_one[: len(chunk)])) + start


def _may_convert(column: Column) -> bool:
    return column.type in _AS_WRITTEN or (column.type in _NUMBERS and not column.is_inferred)


def _convertible(head: bytes, form: ConversionSpec, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns whose values in the first lines are converted without loss."""
    if not names or not head:
        return ()
    try:
        with form.open(pa.BufferReader(head), names, header_lines=form.dialect.header_lines, skips=True) as reader:
            table = reader.read_all()
    except pa.ArrowInvalid:
        half = len(names) // 2
        return _convertible(head, form, names[:half]) + _convertible(head, form, names[half:]) if half else ()
    return tuple(name for name in names if _is_finite(table.column(name)))


def _is_finite(column: pa.ChunkedArray) -> bool:
    return not pa.types.is_floating(column.type) or pc.all(pc.is_finite(column)).as_py() is not False
