"""Pages beside the report of a run: feature views, monitors and experiments, each with its newest results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from pipeline.core.clock import Clock, now
from pipeline.core.graph import Graph
from pipeline.project.workspace import Workspace
from pipeline.report import Link, write_page
from pipeline.report.page import templates

KINDS = {
    "features": ("feature view",),
    "monitors": ("monitor",),
    "experiments": ("experiment", "interleaving"),
}
"""The pages, and the kinds of definitions that they show."""


def links_of(graph: Graph, report: Path) -> tuple[Link, ...]:
    """Return the pages of a project: those for which it has definitions. Their files are beside the report."""
    kinds = {definition.kind for definition in graph.definitions}
    return tuple(
        Link(f"{report.stem}-{name}.html", name.capitalize()) for name, shown in KINDS.items() if kinds & {*shown}
    )


def write_pages(workspace: Workspace, report: Path, clock: Clock = now) -> tuple[Link, ...]:
    """Write the pages of a project beside its report, remove those that it has no definitions for, and return the others.

    What cannot be read, for example a table of another format, is shown with its error. Raises `StorageError` if a file cannot
    be written.
    """
    links = links_of(workspace.project.graph, report)
    files = {link.file for link in links}
    for name in KINDS:
        path = report.with_name(f"{report.stem}-{name}.html")
        if path.name in files:
            write_page(_page(name, workspace, (Link(report.name, "Run report"), *links), clock()), path)
        else:
            path.unlink(missing_ok=True)
    return links


def _page(name: str, workspace: Workspace, links: tuple[Link, ...], at: datetime) -> str:
    from ml.pages.experiments import experiment_values  # noqa: PLC0415 - imports DuckDB and Arrow
    from ml.pages.features import feature_values  # noqa: PLC0415 - likewise
    from ml.pages.monitors import monitor_values  # noqa: PLC0415 - likewise

    values: Mapping[str, Callable[[Workspace, datetime], Mapping[str, object]]] = {
        "features": feature_values,
        "monitors": monitor_values,
        "experiments": experiment_values,
    }
    return (
        templates("ml.pages")
        .get_template(f"{name}.html")
        .render(
            settings=workspace.settings,
            links=links,
            here=name.capitalize(),
            at=at.isoformat(timespec="seconds"),
            **values[name](workspace, at),
        )
    )
