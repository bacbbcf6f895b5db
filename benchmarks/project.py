"""Headwater as a contestant: writes a project to a folder and runs it with the `headwater` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.interleaved_runs import Answer, Contestant, Ran, UnableError
from benchmarks.measure import Measured, measure
from benchmarks.nodes import Nodes, running
from pipeline.project import Workspace, load

HEADWATER = str(Path(sys.executable).parent / "headwater")
IMPORTS = "from pipeline import files, mart, quarantine, source, sql, warn\n"


@dataclass(frozen=True)
class Step:
    """What a run reports about one table: seconds, executor, rows, and violations of each expectation."""

    seconds: float
    executor: str
    flow: Mapping[str, int]
    checks: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Project:
    """A project's folder, and the running nodes to use; without nodes, the default settings apply."""

    folder: Path
    nodes: Nodes | None = None
    environ: Mapping[str, str] = field(default_factory=dict)

    def run(self, *select: str, full: bool = False) -> tuple[Measured, Mapping[str, Step]]:
        """Run `headwater run` for all or some tables; return the measurement and the report of each step."""
        words = [HEADWATER, "run", "--json", *(["--full"] if full else [])]
        for name in select:
            words += ["--select", name]
        on_ray = {} if self.nodes is None else {**self.nodes.environ, "HEADWATER_EXECUTION": "ray"}
        pids = () if self.nodes is None else self.nodes.pids
        result = measure(words, self.folder, environ={"RAY_ADDRESS": "", **on_ray, **self.environ}, beside=pids)
        if result.code:
            raise UnableError(f"headwater exited with {result.code}: {_said(result)}")
        steps = json.loads(result.output)["steps"]
        return result, {
            step["name"]: Step(step["seconds"], step["executor"], step["flow"], step["checks"]) for step in steps
        }

    def stream(self, *names: str, drain: bool = False) -> tuple[Measured, Mapping[str, Mapping[str, int]]]:
        """Run `headwater stream` until caught up; return the measurement and the totals of each stream."""
        result = measure(self.streaming(*names, "--until-caught-up", *(["--drain"] if drain else [])), self.folder)
        if result.code:
            raise UnableError(f"headwater exited with {result.code}: {_said(result)}")
        return result, json.loads(result.output)

    def streaming(self, *words: str) -> list[str]:
        """Return the command line of `headwater stream`."""
        return [HEADWATER, "stream", "--json", *words]

    def table(self, name: str) -> Path:
        """Return the folder of a silver table."""
        return self.folder / ".headwater" / "lake" / "silver" / name

    def rows(self, query: str) -> Answer:
        """Return the rows of a query over the project's tables."""
        return [tuple(row.values()) for row in Workspace(load(self.folder)).query(query).to_pylist()]


def ours(job: Callable[[Nodes | None, Path], Ran]) -> list[Contestant]:
    """Return Headwater's two contestants: `auto` uses default settings, `ray` a cluster of all cores.

    The cluster is started before the measurement, and does not run during the runs of others.
    """
    return [Contestant("auto", partial(job, None), is_ours=True), on_ray(job)]


def on_ray(
    job: Callable[[Nodes, Path], Ran], count: int = 1, cores_each: int | None = None, share: float | None = None
) -> Contestant:
    """Return Headwater on a cluster with this number of nodes and cores; for `share`, see `running`."""

    def run(folder: Path) -> Ran:
        with running(count, cores_each, share) as nodes:
            return job(nodes, folder)

    return Contestant("ray", run, is_ours=True)


def seconds(steps: Mapping[str, Step]) -> dict[str, float]:
    """Return the seconds of each step."""
    return {name: step.seconds for name, step in steps.items()}


def took(result: Measured) -> float:
    """Return the seconds of a run from its first step to its last, as recorded by the run."""
    record = json.loads(result.output)
    begin, end = (datetime.fromisoformat(record[name]) for name in ("started_at", "ended_at"))
    return (end - begin).total_seconds()


def written(folder: Path, definitions: str, settings: Mapping[str, Any] | None = None) -> Path:
    """Write a project with these definitions and settings, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.py").write_text(IMPORTS + definitions, encoding="utf-8")
    lines = [f"{key} = {json.dumps(value)}" for key, value in (settings or {}).items()]
    toml = ['[project]\nname = "bench"\ndefinitions = "bench.py"\n[env.dev]', *lines]
    (folder / "headwater.toml").write_text("\n".join(toml) + "\n", encoding="utf-8")
    return folder


def source_text(name: str, pattern: Path, schema: Mapping[str, str] | None = None, *, stored: bool = True) -> str:
    """Return the definition of a source of files."""
    options = "" if schema is None else f", schema={dict(schema)!r}"
    unstored = "" if stored else ", stored=False"
    return f"{name} = source(files({str(pattern)!r}){options}{unstored})\n"


def _said(result: Measured) -> str:
    try:
        error = json.loads(result.output)["error"]
    except (ValueError, KeyError, TypeError):
        return (result.errors.strip() or result.output.strip())[-300:]
    return ", ".join(str(error[key]) for key in ("problem", "got") if error.get(key))
