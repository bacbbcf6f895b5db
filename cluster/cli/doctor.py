"""`headwater doctor`: whether this machine and this project are fit to run."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import typer

from cluster.cli.console import grid, print_json
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.connectors import Kafka
from pipeline.core import scratch
from pipeline.core.definitions import Feed, Source
from pipeline.core.errors import HeadwaterError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace

_NEEDED = ("ray", "duckdb", "deltalake", "pyarrow", "sqlglot", "sqlalchemy")
_EXTRAS = {"ml": ("mlflow", "sklearn", "pandas"), "serve": ("fastapi",), "s3": ("s3fs",), "polars": ("polars",)}
_EXTRAS |= {"kafka": ("confluent_kafka", "kafka"), "avro": ("fastavro",), "protobuf": ("google.protobuf",)}
_LEAST_FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `ok`, `note` or `bad`, and what to do."""

    what: str
    state: str
    detail: str


def doctor(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Check Python, packages, settings, definitions, lake, catalog and disk; say what to do about what is wrong."""
    findings = [*_machine(), *_project(folder, env)]
    if as_json:
        print_json(findings)
    else:
        marks = {"ok": "✓", "note": "·", "bad": "✗"}
        grid(None, ("", "what", "found"), [(marks[f.state], f.what, f.detail) for f in findings])
    if any(f.state == "bad" for f in findings):
        raise typer.Exit(1)


def _machine() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()}, {os.cpu_count()} cores")
    for package in _NEEDED:
        try:
            yield Finding(package, "ok", version(package))
        except PackageNotFoundError:
            yield Finding(package, "bad", f"missing: {sys.executable} -m pip install headwater")
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        state, detail = ("note", f"not installed: pip install 'headwater[{extra}]'") if missing else ("ok", "installed")
        yield Finding(f"extra {extra}", state, detail)
    address = os.environ.get("RAY_ADDRESS")
    yield Finding("ray cluster", "ok", address or "none given: a local one is started when work is large")


def _project(folder: Path, env: str | None) -> Iterator[Finding]:
    try:
        project = load(folder, env=env)
    except HeadwaterError as error:
        yield Finding("project", "bad", str(error))
        return
    settings = project.settings
    yield Finding("project", "ok", f"{settings.name} ({settings.env}): {len(project.graph.definitions)} definitions")
    workspace = Workspace(project)
    yield _tried("lake", settings.lake, lambda: workspace.lake.storage.write_text(".headwater-doctor", "ok"))
    yield _tried("catalog", "answers", workspace.catalog.runs)
    yield _tried("warehouse", settings.warehouse, workspace.warehouse.loaded)
    yield _tried("tables", "readable", lambda: [workspace.version(name) for name in workspace.table_names])
    for definition in project.graph.definitions:
        if isinstance(definition, Source | Feed) and isinstance(definition.reader, Kafka):
            yield from _topics(definition.name, definition.reader)
    yield from _temporary()
    free = shutil.disk_usage(settings.root).free
    yield Finding("disk", "ok" if free > _LEAST_FREE_BYTES else "bad", f"{free / 1e9:,.1f} GB free at {settings.root}")


def _temporary() -> Iterator[Finding]:
    """Remove the temporary files of processes that are gone, and say what there is."""
    removed = scratch.reclaim()
    if removed:
        detail = f"{sum(removed.values()) / 1e9:,.1f} GB of {len(removed)} processes that were killed, now removed"
        yield Finding("temporary files", "note", detail)
    yield Finding("temporary files", "ok", f"{scratch.in_use() / 1e9:,.1f} GB in use at {scratch.base()}")


def _topics(name: str, kafka: Kafka) -> Iterator[Finding]:
    """Look at the topics that a source reads, and for transactions that hold its readers back."""
    from pipeline.connectors.kafka.administration import hanging_transactions, topics  # noqa: PLC0415 - its client is an extra

    try:
        for topic in topics(kafka):
            state, words = ("note", "; ".join(topic.warnings)) if topic.warnings else ("ok", "nothing to worry about")
            yield Finding(f"{name}: topic {topic.name}", state, f"{topic.partitions} partitions; {words}")
        for uri, offsets in kafka.held_back().items():
            if offsets:
                yield Finding(f"{name}: {uri}", "note", f"{offsets:,} offsets wait behind an open transaction")
        for transaction in hanging_transactions(kafka):
            yield Finding(f"{name}: transaction", "bad", f"hangs: {transaction}")
    except HeadwaterError as error:
        yield Finding(f"{name}: topics", "bad", str(error))


def _tried(what: str, detail: str, attempt: Callable[[], object]) -> Finding:
    try:
        attempt()
    except HeadwaterError as error:
        return Finding(what, "bad", str(error))
    return Finding(what, "ok", detail)
