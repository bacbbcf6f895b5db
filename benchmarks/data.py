"""The data of the benchmarks: made once, kept outside of the repository.

They lie in `~/.cache/headwater-benchmarks`, or where `HEADWATER_BENCH_DATA` says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb

from benchmarks.peer import interpreter

FILE_ROWS = 5_000_000
"""The rows of one file of a table that DuckDB makes."""


def home() -> Path:
    """Return the folder of all data, which is there."""
    folder = Path(os.environ.get("HEADWATER_BENCH_DATA") or Path.home() / ".cache" / "headwater-benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def lineitem_csv(scale: float) -> Path:
    """Return a folder of CSV files with a header: TPC-H's `lineitem`, 730 MB at scale 1, four files for each."""
    return _tpch("csv", scale, "lineitem") / "lineitem"


def tpch_parquet(scale: float) -> Path:
    """Return a folder with one folder of Parquet files for each of TPC-H's eight tables."""
    return _tpch("parquet", scale)


def made(name: str, select: str, rows: int) -> Path:
    """Return a folder of Parquet files: `select` over `i`, from 0 to `rows`, in files of at most five million rows."""

    def make(folder: Path) -> None:
        with duckdb.connect() as con:
            for number, first in enumerate(range(0, rows, FILE_ROWS)):
                numbers = f"select range as i from range({first}, {min(first + FILE_ROWS, rows)})"
                to = folder / f"{number:05d}.parquet"
                con.execute(f"copy (with numbers as ({numbers}) {select} from numbers) to '{to}' (compression zstd)")

    return once(f"{name}-{rows}", make)


def once(name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder; make it under another name first, so that one which is there is whole."""
    folder = home() / name
    if not folder.exists():
        unfinished = home() / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        make(unfinished)
        unfinished.rename(folder)
    return folder


def size_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _tpch(form: str, scale: float, *tables: str) -> Path:
    def make(folder: Path) -> None:
        command = [str(interpreter().parent / "tpchgen-cli"), form, "--scale-factor", f"{scale:g}", "--quiet"]
        parts = max(4, round(4 * scale))
        chosen = [f"--tables={','.join(tables)}"] if tables else []
        try:
            subprocess.run([*command, f"--parts={parts}", f"--output-dir={folder}", *chosen], check=True)
        except OSError as error:
            raise SystemExit(f"TPC-H's data are made by tpchgen-cli: run `make peers` ({error})") from error

    return once(f"tpch-{form}-{scale:g}", make)


def copied(folder: Path, to: Path) -> Path:
    """Copy a folder; its Parquet files, which nobody changes, are linked."""

    def copy(table: str, other: str) -> str:
        if not table.endswith(".parquet"):
            return str(shutil.copy2(table, other))
        os.link(table, other)
        return other

    shutil.copytree(folder, to, symlinks=True, copy_function=copy)
    return to
