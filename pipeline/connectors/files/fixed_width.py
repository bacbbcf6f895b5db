"""Text with columns of fixed width, converted to JSON lines: by column, with Arrow and DuckDB."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import pyarrow as pa

from pipeline.connectors.files.csv.reader import Dialect
from pipeline.connectors.files.record_index import lines_of
from pipeline.core.errors import Place
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import literal

WidthUnit = Literal["characters", "bytes"]
_SPACE = "e' \\t\\r\\n'"


@dataclass(frozen=True)
class FixedWidth:
    """The columns with their widths, in order. A value is stripped of spaces; an empty one is null."""

    widths: tuple[tuple[str, int], ...]
    unit: WidthUnit = "characters"

    has_columns = True

    @property
    def decodes(self) -> bool:
        """Whether the bytes of a column are decoded on their own."""
        return self.unit == "bytes"

    def rows_before(self, dialect: Dialect) -> int:
        """Return the number of lines before the first row."""
        return dialect.header_lines

    def convert(self, path: str, target: str, dialect: Dialect, place: Place) -> None:
        """Write the lines as JSON; a line that is longer than all columns, or not text, is rejected."""
        dialect.naming.named([name for name, _ in self.widths], place)
        lines = lines_of(path).texts()[dialect.header_lines :]
        encoding = dialect.encoding if self.decodes else None
        with connect(Limits(threads=1)) as con:
            con.register("_lines", pa.table({"bytes": lines, **self._decoded(lines, encoding)}))
            columns = [f"trim({self._column(number, encoding)}, {_SPACE})" for number in range(len(self.widths) + 1)]
            *values, rest = [f"c{number}" for number in range(len(columns))]
            fields = ", ".join(
                f"{literal(name)}, nullif({v}, '')" for (name, _), v in zip(self.widths, values, strict=True)
            )
            bad = " or ".join(f"{value} is null" for value in (*values, rest))
            line = (
                f"case when {bad} then json_array({literal(_reason(encoding))}, shown) "
                f"when {rest} <> '' then json_array('the line is longer than its columns', shown) "
                f"when concat({', '.join(values)}) = '' then null else json_object({fields}) end"
            )
            named = ", ".join(f"{column} as c{number}" for number, column in enumerate(columns))
            shown = f"rtrim(decode(bytes, 'replace'), {_SPACE}) as shown"
            options = "(format csv, header false, quote '', escape '', delimiter '\x01')"
            rows = f"select {named}, {shown} from (select *, try(decode(bytes)) as line from _lines)"
            con.execute(f"copy (select ({line})::varchar from ({rows})) to {literal(target)} {options}")

    def _bounds(self) -> list[tuple[int, int | None]]:
        """Return the begin and the end of each column, and of the rest of a line."""
        ends = list(accumulate(width for _, width in self.widths))
        return [*zip([0, *ends], ends, strict=False), (ends[-1], None)]

    def _column(self, number: int, encoding: str | None) -> str:
        """Return SQL for the text of a column; null if it cannot be decoded."""
        begin, end = self._bounds()[number]
        if self.unit == "characters":
            return f"substring(line, {begin + 1}{'' if end is None else f', {end - begin}'})"
        return f"b{number}" if encoding else f"try(decode(bytes[{begin + 1}:{'' if end is None else end}]))"

    def _decoded(self, lines: pa.LargeBinaryArray, encoding: str | None) -> dict[str, pa.Array]:
        """Return the columns of bytes that are not UTF-8, which only Python decodes."""
        if not encoding:
            return {}
        raw = lines.to_pylist()
        return {
            f"b{number}": pa.array([_decoded(line[begin:end], encoding) for line in raw], pa.string())
            for number, (begin, end) in enumerate(self._bounds())
        }


def _decoded(value: bytes, encoding: str) -> str | None:
    try:
        return value.decode(encoding)
    except UnicodeDecodeError:
        return None


def _reason(encoding: str | None) -> str:
    return f"not {encoding or 'UTF-8'}"
