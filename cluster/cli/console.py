"""Output of the command: text for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.core.errors import HeadwaterError
from pipeline.core.settings import Settings, find
from pipeline.core.settings import load as load_settings

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.project.project import Project
    from pipeline.project.workspace import Workspace

_WIDE = 140
out = Console(
    width=_WIDE if not sys.stdout.isatty() and "COLUMNS" not in os.environ else None, highlight=False, emoji=False
)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def open_project(folder: Path, env: str | None) -> Project:
    """Load the project at or above a folder, and remove temporary files that killed commands left behind.

    Raises `RequestError` in a job whose results would be removed after it; see `require_kept_stores`.
    """
    from cluster.jobs import require_kept_stores  # noqa: PLC0415 - not needed by commands without a project
    from pipeline.core import scratch  # noqa: PLC0415 - likewise
    from pipeline.project.project import load  # noqa: PLC0415 - likewise

    project = load(find(folder).parent, env=env)
    require_kept_stores(project)
    scratch.reclaim()
    return project


def open_settings(folder: Path, env: str | None) -> Settings:
    """Return the settings of the project at or above a folder, without loading its definitions."""
    return load_settings(find(folder), env=env)


def open_workspace(folder: Path, env: str | None) -> Workspace:
    """Load the project at or above a folder and its stores."""
    from pipeline.project.workspace import Workspace  # noqa: PLC0415 - not needed by commands without a project

    return Workspace(open_project(folder, env))


def fail(error: HeadwaterError, *, as_json: bool) -> None:
    """Print an error: one message as text, its parts as JSON."""
    if as_json:
        place = None if error.place is None else str(error.place)
        parts = {"problem": error.problem, "got": error.got, "do": error.do, "place": place}
        print_json({"error": {"kind": type(error).__name__, **parts}})
        return
    err.print(f"[bold red]error:[/] {escape(str(error))}")


def print_failure(name: str, error: Exception) -> None:
    """Print why a step of a run failed. For an error that is not a `HeadwaterError`, also print the traceback."""
    if not isinstance(error, HeadwaterError):
        err.print("".join(traceback.format_exception(error)).rstrip(), markup=False)
    words = str(error) if isinstance(error, HeadwaterError) else f"{type(error).__name__}: {error}"
    err.print(f"[bold red]error:[/] {escape(name)}: {escape(words)}")


def print_json(document: object) -> None:
    """Print a document as JSON."""
    sys.stdout.write(json.dumps(document, default=_plain, indent=2) + "\n")


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def grid(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "") -> None:
    """Print a table. `right` names the right-aligned columns, separated by commas."""
    to_right = {name.strip() for name in right.split(",")}
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in to_right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(text(cell) for cell in row))
    out.print(table)


def text(cell: object) -> str:
    """Return a cell as text: with thousands separators, empty for null."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.3f}"
    return escape(str(cell))


def print_rows(rows: pa.Table, *, as_json: bool, most: int = 50) -> None:
    """Print the rows of an Arrow table, which can have duplicate column names."""
    if as_json:
        print_json(as_objects(rows))
        return
    from pyarrow import types  # noqa: PLC0415 - not needed by commands without rows

    numbers = [f.name for f in rows.schema if types.is_integer(f.type) or types.is_floating(f.type)]
    grid(
        None,
        _apart(rows.column_names),
        ([_number(value) for value in row] for row in _values(rows.slice(0, most))),
        right=",".join(numbers),
    )
    if rows.num_rows > most:
        out.print(f"[dim]… {rows.num_rows - most:,} more rows; --limit {rows.num_rows} shows all[/]")


def as_objects(rows: pa.Table) -> list[dict[str, Any]]:
    """Return rows as objects for JSON; a duplicate column name gets a numeric suffix."""
    names = _apart(rows.column_names)
    return [dict(zip(names, row, strict=True)) for row in _values(rows)]


def _values(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Return the values row by row; dates outside Python's range, such as `infinity`, as text."""
    columns = []
    for column in rows.columns:
        try:
            columns.append(column.to_pylist())
        except (OverflowError, ValueError):
            columns.append(column.cast("string").to_pylist())
    return zip(*columns, strict=True)


def _apart(names: Sequence[str]) -> list[str]:
    """Return unique names: repeated names get the suffixes `_1`, `_2`, ..., as in DuckDB."""
    unique: list[str] = []
    for name in names:
        chosen, number = name, 0
        while chosen in unique:
            number += 1
            chosen = f"{name}_{number}"
        unique.append(chosen)
    return unique


def _number(value: Any) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
