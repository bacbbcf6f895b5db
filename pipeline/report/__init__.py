"""The run report: one self-contained HTML file about the newest run, and pages beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import StorageError, printable
from pipeline.governance import Catalog
from pipeline.project.project import Project
from pipeline.report.facts import read
from pipeline.report.page import Link, page

__all__ = ["Link", "write_page", "write_report"]


def write_report(project: Project, catalog: Catalog, path: Path, links: Sequence[Link] = ()) -> Path:
    """Write the report of the newest run to a file, replacing an older one, and return the path.

    The report works offline and contains no scripts. Definitions that the newest run skipped are shown with the run
    that computed them. Its navigation has the `links`. Raises `StorageError` if nothing has run yet, or if the lake, the catalog
    or the file cannot be accessed; an older report is then kept.
    """
    return write_page(page(read(project, catalog), links), path)


def write_page(text: str, path: Path) -> Path:
    """Write a page to a file, replacing an older one in one step; raise `StorageError` if it cannot be written."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(printable(text), encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot write the report to {path}",
            got=error.strerror or str(error),
            do="choose a file that can be written",
        ) from error
    return path
