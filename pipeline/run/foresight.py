"""What a run will do, read from the project and the lake without changing either."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.core.definitions import Artifact, Definition, Source, Table
from pipeline.core.errors import DefinitionError
from pipeline.core.reading import Piece
from pipeline.kernel.scan import Scan
from pipeline.lake import Version
from pipeline.run.bench import RunBench
from pipeline.run.decide import Decision, Inputs, decide_source, decide_table
from pipeline.run.planning import Route, route, source_route
from pipeline.run.workspace import Workspace


@dataclass(frozen=True)
class Options:
    """What a run is asked to do: patterns of `Graph.select`, and whether to recompute what is up to date."""

    select: tuple[str, ...] = ()
    full: bool = False


@dataclass(frozen=True)
class Foresight:
    """One definition of a plan: the decision, and for a table how it would be computed."""

    definition: Definition
    decision: Decision
    route: Route | None = None


def foresee(workspace: Workspace, options: Options) -> tuple[Foresight, ...]:
    """Return what a run would do now, in order; nothing is written.

    A table below one that would change is shown as rebuilt: what it needs to decide better is not there yet.
    """
    chosen = workspace.project.graph.select(options.select)
    moving: set[str] = set()
    planned = []
    for definition in workspace.project.graph.definitions:
        if definition.name in chosen:
            found = _foresee(workspace, options, definition, moving)
            if found.decision.kind != "skip":
                moving.add(definition.name)
            planned.append(found)
    return tuple(planned)


def decide(
    workspace: Workspace,
    options: Options,
    definition: Source | Table,
    version: Version | None,
    inputs: Mapping[str, Version],
) -> Decision:
    """Decide what to do with a table that is at `version`, its inputs as they were just read."""
    manifest = None if version is None else version.manifest
    if isinstance(definition, Source):
        return decide_source(definition.fingerprint, manifest, definition.reader.pieces(), full=options.full)
    way = route_of(workspace, definition, {})
    added = None
    if manifest is not None and way.splits_alone and way.driving in manifest.inputs and way.driving in inputs:
        mark = manifest.marks.get(way.driving)
        added = workspace.table(way.driving).added_since(manifest.inputs[way.driving], mark, inputs[way.driving])
    numbers = {name: inputs[name].number if name in inputs else -1 for name in definition.inputs}
    marks = {name: inputs[name].mark if name in inputs else None for name in definition.inputs}
    known = Inputs(numbers, marks, way.driving, added, way.splits_alone)
    return decide_table(definition.fingerprint, manifest, known, full=options.full)


def route_of(workspace: Workspace, definition: Table, scans: Mapping[str, Scan]) -> Route:
    """Choose how a table is computed from its inputs."""
    settings = workspace.settings
    return route(definition, scans, execution=settings.execution, inline_bytes=settings.inline_bytes)


def route_of_source(workspace: Workspace, definition: Source, pieces: tuple[Piece, ...]) -> Route:
    """Choose how a source's pieces are read."""
    settings = workspace.settings
    return source_route(definition, pieces, execution=settings.execution, inline_bytes=settings.inline_bytes)


def _foresee(workspace: Workspace, options: Options, definition: Definition, moving: Collection[str]) -> Foresight:
    above = [repr(name) for name in definition.inputs if name in moving]
    changed = Decision("rebuild", f"{', '.join(above)} would change")
    if isinstance(definition, Artifact):
        if above:
            return Foresight(definition, changed)
        current = not options.full and definition.is_current(RunBench(workspace, definition, ""))
        return Foresight(definition, Decision("skip", "up to date") if current else Decision("rebuild", "to be judged"))
    if isinstance(definition, Source):
        decision = decide(workspace, options, definition, workspace.version(definition.name), {})
        return Foresight(definition, decision, route_of_source(workspace, definition, decision.pieces))
    if not isinstance(definition, Table):
        raise DefinitionError(f"{definition.name!r} is of no known kind", place=definition.place)
    inputs = {n: found for n in definition.inputs if (found := workspace.version(n)) is not None}
    scans = {name: found.scan() for name, found in inputs.items()}
    way = route_of(workspace, definition, scans)
    if above:
        return Foresight(definition, changed, way)
    version = workspace.version(definition.name)
    return Foresight(definition, decide(workspace, options, definition, version, inputs), way)
