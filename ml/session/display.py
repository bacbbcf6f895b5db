"""How rows are shown: as HTML with the colors of the report, in the theme of the notebook, and as text."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from pipeline.report.svg import shortened

CLASS = "headwater"
COLUMNS = 40
"""The number of columns that are shown."""
LETTERS = 80
"""The number of characters of a value that are shown."""
CELL, LINE = 40, 150
"""The number of characters of a value, and of a line, in text."""
_THEMES = """
.headwater { color-scheme: light dark; }
[data-jp-theme-light="true"] .headwater, .vscode-light .headwater { color-scheme: light; }
[data-jp-theme-light="false"] .headwater, .vscode-dark .headwater { color-scheme: dark; }
.headwater { margin: 0; padding: 12px 16px; max-width: 792px; background: var(--card); color: var(--ink); font: 13px/1.5 var(--sans); }
.headwater.rows { box-sizing: border-box; max-width: 100%; width: fit-content; overflow-x: auto; }
.headwater figcaption { font-weight: 600; margin: 0 0 8px; }
.headwater .note { color: var(--soft); margin: 8px 0 0; text-align: left; }
.headwater table { border-collapse: collapse; margin: 0; font-variant-numeric: tabular-nums; }
.headwater th, .headwater td { padding: 3px 12px 3px 0; text-align: left; white-space: nowrap; border: 0; border-bottom: 1px solid var(--hair); background: var(--card); color: var(--ink); }
.headwater th { vertical-align: bottom; font-weight: 600; }
.headwater th small { display: block; font-weight: 400; color: var(--soft); }
.headwater .n { text-align: right; }
.headwater .null { color: var(--faint); }
"""


@cache
def style() -> Markup:
    """Return the style sheet of charts and tables in a notebook: nothing outside them is affected."""
    templates = files("pipeline.report") / "templates"
    colors = (templates / "colors.css").read_text(encoding="utf-8").replace(":root", f".{CLASS}")
    chart = (templates / "chart.css").read_text(encoding="utf-8").replace(".chart", f".{CLASS} .chart")
    return Markup("<style>{}</style>").format(Markup(colors + chart + _THEMES))  # noqa: S704 - our own files


def rows_html(rows: pa.Table, note: str) -> str:
    """Return rows as a table with a note below it; every value is escaped."""
    fields = [rows.schema.field(i) for i in range(min(rows.num_columns, COLUMNS))]
    numeric = [_is_number(field.type) for field in fields]
    head = Markup("").join(
        Markup("<th{}>{}<small>{}</small></th>").format(
            _class("n" if right else ""), shortened(field.name, LETTERS), shortened(str(field.type), LETTERS)
        )
        for field, right in zip(fields, numeric, strict=True)
    )
    columns = [rows.column(i).to_pylist() for i in range(len(fields))]
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(map(_cell, values, numeric)))
        for values in zip(*columns, strict=True)
    )
    left_out = rows.num_columns - len(fields)
    note += f"; {left_out:,} more columns" if left_out else ""
    table = Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body)
    return str(Markup('<div class="{} rows">{}{}<p class="note">{}</p></div>').format(CLASS, style(), table, note))


def _cell(value: Any, right: bool) -> Markup:  # noqa: FBT001 - of a column
    kind = " ".join(name for name, holds in (("n", right), ("null", value is None)) if holds)
    return Markup("<td{}>{}</td>").format(_class(kind), shown(value))


def _class(name: str) -> Markup:
    return Markup(' class="{}"').format(name) if name else Markup("")


def shown(value: Any) -> str:
    """Return a value as text, shortened if it is long. Times are in UTC, without an offset."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return str(value.replace(tzinfo=None))
    if isinstance(value, list | dict):
        value = json.dumps(value, default=str, ensure_ascii=False)
    return shortened(str(value), LETTERS)


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def rows_text(rows: pa.Table, note: str) -> str:
    """Return rows as a text table with a note below it; columns that do not fit in a line are left out."""
    columns, width = list[list[str]](), 0
    for name, values in zip(rows.schema.names, rows.columns, strict=True):
        texts = (name, *map(shown, values.to_pylist()))
        cells = [shortened(" ".join(text.split()), CELL) for text in texts]
        longest, is_number = max(map(len, cells)), _is_number(values.type)
        width += longest + 2
        if width > LINE and columns:
            note += f"; {rows.num_columns - len(columns):,} more columns"
            break
        columns.append([cell.rjust(longest) if is_number else cell.ljust(longest) for cell in cells])
    return "\n".join([*("  ".join(cells).rstrip() for cells in zip(*columns, strict=True)), note])
