"""The report of a project and the pages beside it, written by `headwater run`, `headwater stream` and `headwater report`."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.cli.console import err
from cluster.jobs import report_file
from pipeline.core.errors import HeadwaterError
from pipeline.governance import Catalog
from pipeline.project.project import Project
from pipeline.project.workspace import Workspace
from pipeline.report import write_report


def update_report(project: Project, catalog: Catalog) -> Path:
    """Write the report and its pages to their place in the project and return the path; errors are those of `write_report`."""
    path = report_file(project.settings)
    # a project that has not imported `ml` has none of its definitions; it may have had some before
    if "ml" not in sys.modules and not any(path.parent.glob(f"{path.stem}-*.html")):
        return write_report(project, catalog, path)
    from ml.pages import links_of, write_pages  # noqa: PLC0415 - only for projects with features and the like

    write_report(project, catalog, path, links_of(project.graph, path))
    write_pages(Workspace(project), path)
    return path


def try_update_report(project: Project, catalog: Catalog, *, quiet: bool, known: str = "") -> None:
    """Write the report after a run or a stream; a failure is printed, unless `quiet` or if it is the error `known`."""
    try:
        update_report(project, catalog)
    except (HeadwaterError, OSError) as error:
        if not quiet and str(error) != known:
            err.print(f"[dim]no report: {error}[/]")
