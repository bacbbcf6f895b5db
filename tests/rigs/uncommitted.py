"""Files in the lake that no commit refers to."""

from __future__ import annotations

from pathlib import Path

from pipeline.project.project import load
from pipeline.project.workspace import Workspace


def uncommitted(folder: Path) -> list[str]:
    """The files of rows and state in the lake that no version of their table refers to, and the temporary data of runs."""
    lake = Workspace(load(folder)).lake.storage
    root, found = Path(lake.uri), list[str]()
    for table in (path for path in root.glob("*/*") if path.is_dir() and path.parent.name != "_headwater"):
        logged = "".join(
            path.read_text() for path in (*table.glob("_delta_log/*.json"), *table.glob("_headwater/*.json"))
        )
        files = (*table.rglob("*.parquet"), *table.rglob("*.arrows"))
        found += [str(file) for file in files if file.parent.name != "_delta_log" and file.name not in logged]
    return found + [str(path) for path in root.glob("_headwater/*")]
