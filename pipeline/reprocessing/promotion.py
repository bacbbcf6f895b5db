"""Promotes tables that were built in one environment to another, without computing them again.

A table is promoted if the definition that built it is the current one, and if it was built from the same rows: the
inputs that it consumed are at the same commits in both environments, or were promoted before it. Everything else is left
to a run, which gives the same result.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.batch.kept_states import KeptStates
from pipeline.commit.moments import Moment
from pipeline.commit.post_commit import post_commit
from pipeline.core.clock import Clock, now
from pipeline.core.definitions import Feed, Table
from pipeline.core.errors import RequestError
from pipeline.core.staging import Manifest, StagedFile
from pipeline.lake import LakeTable, Version
from pipeline.lake.maintenance_claims import Claim, maintaining, wait_for_maintenance
from pipeline.project.workspace import Workspace
from pipeline.runner.facts import fingerprint_of, is_computed_by

_LASTS = dt.timedelta(hours=1)
"""How long files of a table may be taken over; what was copied is not copied again."""
Action = Literal["promote", "build", "unchanged"]
"""What happens to a table: it is promoted, left to a run, or as defined already."""


@dataclass(frozen=True)
class Promotion:
    """What happens to one table, and why."""

    table: str
    action: Action
    reason: str
    rows: int = 0
    size_bytes: int = 0


def plan_promotion(built: Workspace, to: Workspace) -> tuple[Promotion, ...]:
    """Return what a promotion from one environment to another does, upstream tables first; nothing is changed.

    Raises `RequestError` if both are one lake.
    """
    if built.lake.storage.uri == to.lake.storage.uri:
        raise RequestError("an environment cannot be promoted to itself", got=to.settings.env, do="name another one")
    promoted: dict[str, int | None] = {}
    found = []
    for definition in to.project.graph.all_of(Table):
        theirs = built.version(definition.name)
        found.append(_planned(to, definition, theirs, promoted))
        if found[-1].action == "promote" and theirs is not None:
            promoted[definition.name] = theirs.manifest_id
    return tuple(found)


def promote(
    built: Workspace,
    to: Workspace,
    plan: tuple[Promotion, ...],
    *,
    clock: Clock = now,
    reached: Callable[[Moment, str], None] = lambda _, __: None,
) -> dict[str, Version]:
    """Promote the tables of a plan, each in one commit, and return their new versions.

    Rows, quarantine, tombstones and aggregate states become those of the other environment. If it is interrupted, a
    second promotion continues. Raises `ConflictError` for a table that another process has committed since the plan.
    """
    promoter = _Promoter(built, to, clock, reached)
    return {each.table: promoter.promoted(each.table) for each in plan if each.action == "promote"}


def _planned(to: Workspace, definition: Table, theirs: Version | None, promoted: Mapping[str, int | None]) -> Promotion:
    name, own = definition.name, to.version(definition.name)
    is_current = own is not None and _is_current(to, definition, own)
    if is_current and not promoted.keys() & set(definition.inputs):
        return Promotion(name, "unchanged", "the current definition built it")
    if theirs is None:
        return Promotion(name, "build", "it was not built there")
    reason = _obstacle(to, definition, theirs) or _other_input(to, theirs, promoted)
    if reason is not None:
        return Promotion(name, "build", reason)
    size = sum(file.size_bytes for file in theirs.files)
    return Promotion(name, "promote", f"version {theirs.number} has the same inputs", theirs.rows, size)


def _is_current(to: Workspace, definition: Table, version: Version) -> bool:
    manifest = version.manifest
    return manifest is not None and is_computed_by(to, definition, version, manifest.fingerprint)


def _obstacle(to: Workspace, definition: Table, theirs: Version) -> str | None:
    """Return why a version cannot be promoted, apart from its inputs; `None` if it can."""
    manifest = theirs.manifest
    if manifest is None or not _is_current(to, definition, theirs):
        return "another definition built it there"
    if manifest.epoch is not None:
        return "a stream writes it"
    if definition.remembers and to.version(definition.name, lenient=True) is not None:
        return "it has history of its own here"
    reads_feed = any(isinstance(to.definition(name), Feed) for name in definition.inputs)
    return "it reads a source that is not stored" if reads_feed else None


def _other_input(to: Workspace, theirs: Version, promoted: Mapping[str, int | None]) -> str | None:
    """Return that an input has other rows than those from which a version was built; `None` if none has."""
    for name, mark in ({} if theirs.manifest is None else theirs.manifest.manifest_ids).items():
        here = to.version(name, lenient=True)
        if promoted.get(name, None if here is None else here.manifest_id) != mark:
            return f"its input {name!r} has other rows here"
    return None


@dataclass(frozen=True)
class _Promoter:
    """Promotes tables in order."""

    built: Workspace
    to: Workspace
    clock: Clock
    reached: Callable[[Moment, str], None]
    before: dict[int | None, tuple[int, int | None]] = field(default_factory=dict)
    """For each promoted version, by its manifest id there: its version and manifest id here."""

    def promoted(self, name: str) -> Version:
        """Take over the files of a table, and commit them."""
        source, table = self.built.table(name), self.to.table(name)
        theirs, own, run_id = self.built.require(name), self.to.version(name), f"promote-{secrets.token_hex(4)}"
        if theirs.manifest is None:
            raise RequestError(
                f"table {name!r} has no manifest there", do=f"run it again: --env {self.built.settings.env}"
            )
        self.to.lake.begin_run(run_id)
        with self.to.lake.staging(table, run_id, own), self._kept_files(name) as claims:
            files = _taken(source, table, source.staged(theirs))
            manifest = self._manifest(name, theirs.manifest, run_id)
            kept, built_by = KeptStates.of(source.storage), theirs.manifest.run_id
            states = kept.read(built_by) if kept.has(built_by) else None
            if states is not None:
                KeptStates.of(table.storage).write(run_id, states)
            self.reached(Moment.STAGED, name)
            for claim in claims:
                claim.require()
            committed = table.commit(manifest, files, theirs.schema, own)
        self.reached(Moment.COMMITTED, name)
        post_commit(self.to, self.to.stored(name), committed)
        self.to.lake.end_run(run_id)
        self.before[theirs.manifest_id] = (committed.number, committed.manifest_id)
        return committed

    @contextmanager
    def _kept_files(self, name: str) -> Iterator[Sequence[Claim]]:
        """Let no vacuum remove files that are here already and that no version needs until the commit."""
        with ExitStack() as stack:
            claims = []
            for source, target in (
                (self.built.table(name), self.to.table(name)),
                (self.built.lake.quarantine(name), self.to.lake.quarantine(name)),
            ):
                if source.number() is not None:
                    wait_for_maintenance(target.storage)
                    claims.append(stack.enter_context(maintaining(target.storage, _LASTS)))
            yield claims

    def _manifest(self, name: str, manifest: Manifest, run_id: str) -> Manifest:
        """Return the manifest here: the consumed versions are those that the inputs have here."""
        inputs, marks = dict[str, int](), dict[str, int | None]()
        for each, mark in manifest.manifest_ids.items():
            here = self.to.require(each)
            inputs[each], marks[each] = self.before.get(mark, (here.number, here.manifest_id))
        source, target = self.built.lake.quarantine(name), self.to.lake.quarantine(name)
        quarantined = source.version()
        return replace(
            manifest,
            run_id=run_id,
            fingerprint=fingerprint_of(self.to, self.to.stored(name)),
            mode="overwrite",
            inputs=inputs,
            manifest_ids=marks,
            tombstones=_taken(self.built.table(name), self.to.table(name), tuple(manifest.tombstones)),
            quarantined=() if quarantined is None else _taken(source, target, source.staged(quarantined)),
            quarantine_mode="overwrite",
            backfill="",
            backfilled=(),
            at=self.clock().isoformat(),
        )


def _taken(source: LakeTable, target: LakeTable, files: tuple[StagedFile, ...]) -> tuple[StagedFile, ...]:
    for file in files:
        if not target.storage.has(file.path):
            target.storage.copy(source.storage, file.path)
    return files
