"""Sheets of Excel workbooks (`.xlsx`), converted to JSON lines.

A cell with an error such as `#N/A`, and a formula whose value is not stored in the file, reject their row.
"""

from __future__ import annotations

import datetime as dt
import itertools
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.connectors.column_names import numbered
from pipeline.connectors.files.conversion import line_of
from pipeline.connectors.files.csv.reader import Dialect
from pipeline.connectors.files.expansion import DEFAULT_EXPANSION, Expansion
from pipeline.core.errors import Place, SourceError, did_you_mean, few
from pipeline.core.extras import imports_of

_ERROR, _FORMULA = "e", "f"
_EXACT_INTEGERS = 1 << 53
_PROLOG_BYTES = 1 << 10
_FORMULA_TAG = b"<f"


@dataclass(frozen=True)
class ExcelSheet:
    """A sheet of a workbook, and the number of rows above its header or its first row."""

    sheet: str | int | None = None
    """The name of a sheet, or its number from 1; `None` for the only one."""
    skip: int = 0
    expansion: Expansion = field(default=DEFAULT_EXPANSION, repr=False)  # it does not change rows

    decodes = True
    has_columns = True

    def rows_before(self, dialect: Dialect) -> int:
        """Return the number of rows above the first one with values."""
        return self.skip + dialect.header_lines

    def convert(self, path: str, target: str, dialect: Dialect, place: Place) -> None:
        """Write the rows of the sheet as JSON lines."""
        with imports_of("files", "reading Excel files"):
            import openpyxl  # noqa: PLC0415 - an extra

        has_formulas = _require_safe(path, self.expansion, place)
        try:
            with (
                Path(path).open("rb") as file,
                Path(path).open("rb") as again,
                Path(target).open("w", encoding="utf-8") as lines,
            ):
                values = self._sheet(openpyxl.load_workbook(file, read_only=True, data_only=True), place)
                formulas = self._sheet(openpyxl.load_workbook(again, read_only=True), place) if has_formulas else None
                lines.writelines(line + "\n" for line in self._lines(values, formulas, dialect, place))
        except SourceError:
            raise
        except Exception as error:  # the library has no common exception
            raise SourceError("the file cannot be read as EXCEL", got=str(error), place=place) from error

    def _sheet(self, workbook: Any, place: Place) -> Any:
        """Return the sheet; raise `SourceError` if there is none, or if it is not clear which."""
        names = list(workbook.sheetnames)
        shown = [sheet.title for sheet in workbook.worksheets if sheet.sheet_state == "visible"]
        if self.sheet is None and len(shown) == 1:
            return workbook[shown[0]]
        if self.sheet is None:
            raise SourceError(
                "the workbook has several sheets",
                got=few(map(repr, shown)),
                do="choose one: files(…, sheet=…)",
                place=place,
            )
        name = names[self.sheet - 1] if isinstance(self.sheet, int) and 0 < self.sheet <= len(names) else self.sheet
        if name not in names or name not in {sheet.title for sheet in workbook.worksheets}:
            raise SourceError(
                "the workbook has no such sheet", got=repr(self.sheet), do=did_you_mean(str(name), names), place=place
            )
        return workbook[name]

    def _lines(self, values: Any, formulas: Any, dialect: Dialect, place: Place) -> Iterator[str]:
        rows = values.iter_rows(min_row=1 + self.skip)
        first = next(rows, ())
        names = _names([cell.value for cell in first], dialect, place)
        written = formulas.iter_rows(min_row=1 + self.skip) if formulas is not None else None
        for number, cells in enumerate(itertools.chain([first], rows)):
            beside = cells if written is None else next(written)
            if number or not dialect.has_header:
                yield _line(names, cells, beside)


def _names(first: Sequence[Any], dialect: Dialect, place: Place) -> tuple[str, ...]:
    """Return the names of the columns, from the first row or as declared."""
    values = ["" if value is None else str(value) for value in first]
    while values and not values[-1] and dialect.has_header:
        values.pop()
    if not values and not dialect.naming.names:
        raise SourceError("the first row of the sheet is empty", do="pass skip= if the header is below it", place=place)
    declared = dialect.naming.names
    if declared and len(declared) != len(values):
        got, do = f"{len(declared)}, and {len(values)} columns in the first row", "name all columns"
        raise SourceError("names= must name all columns of the sheet", got=got, do=do, place=place)
    names = declared or numbered(values if dialect.has_header else [""] * len(values))
    dialect.naming.named(names, place)
    return names


def _line(names: Sequence[str], cells: Sequence[Any], formulas: Sequence[Any]) -> str:
    row: dict[str, Any] = dict.fromkeys(names)
    problems: list[str] = []
    for at, (cell, formula) in enumerate(zip(cells, formulas, strict=False)):
        value, name = cell.value, names[at] if at < len(names) else f"column{at}"
        if value is None:
            if formula.data_type == _FORMULA:
                problems.append(f"the formula in {name!r} has no stored value")
            continue
        if cell.data_type == _ERROR:
            problems.append(f"the error {value} in {name!r}")
        elif at >= len(names):
            problems.append("a value beyond the last column")
        row[name] = _value(value)
    return line_of(row, problems)


def _value(value: Any) -> Any:
    """Return the value of a cell as JSON; Excel has only floating-point numbers, and dates with a time."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_INTEGERS:
        return int(value)
    if isinstance(value, dt.datetime):
        return str(value.date()) if value.time() == dt.time() else str(value)
    if isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _require_safe(path: str, expansion: Expansion, place: Place) -> bool:
    """Return whether a workbook contains formulas; raise `SourceError` if it expands too far or has a DTD."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            expansion.check(sum(info.file_size for info in infos), Path(path).stat().st_size, place)
            has_formulas = False
            for info in infos:
                if not info.filename.endswith((".xml", ".rels")):
                    continue
                with archive.open(info) as part:
                    head = part.read(_PROLOG_BYTES)
                    if b"<!DOCTYPE" in head:
                        raise SourceError(
                            "the workbook contains a DTD", got=info.filename, do="save it again", place=place
                        )
                    if "worksheets/" in info.filename and not has_formulas:
                        has_formulas = _FORMULA_TAG in head or any(
                            _FORMULA_TAG in piece for piece in iter(lambda: part.read(1 << 20), b"")
                        )
            return has_formulas
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        do = "save it as .xlsx; other formats of Excel are not read"
        raise SourceError("the file cannot be read as EXCEL", got=str(error), do=do, place=place) from error
