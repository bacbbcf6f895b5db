"""Promotes tables that were built in one environment to another, without computing them again.

A table is promoted if the definition that built it is the current one, and if it was built from the same rows: the
inputs that it consumed are at the same commits in both environments, or were promoted before it. Everything else is left
to a run, which gives the same result.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.batch.kept_states import KeptStates
from pipeline.commit.moments import Moment
from pipeline.commit.post_commit import post_commit
from pipeline.core.clock import Clock, now
from pipeline.core.definitions import Feed, Table
from pipeline.core.errors import ConflictError, RequestError
from pipeline.core.staging import Manifest, StagedFile
from pipeline.lake import LakeTable, Version
from pipeline.lake.maintenance_claims import Claim, maintaining, wait_for_maintenance
from pipeline.project.workspace import Workspace
from pipeline.runner.facts import fingerprint_of, is_computed_by

_LASTS = dt.timedelta(hours=1)
"""How long files of a table may be taken over; what was copied is not copied again."""


@dataclass(frozen=True)
class Promotion:
    """What happens to one table, and why."""

    table: str
    action: Literal["promote", "build", "unchanged"]
    """It is promoted, left to a run, or as defined already."""
    reason: str
    rows: int = 0
    size_bytes: int = 0
    built: int | None = None
    """The manifest id of the version that is promoted. It stands for the inputs too, because a manifest names their ids."""
    own: int | None = None
    """The manifest id of the version that is replaced; `None` if there is none."""


def plan_promotion(built: Workspace, to: Workspace) -> tuple[Promotion, ...]:
    """Return what a promotion from one environment to another does, upstream tables first; nothing is changed.

    Raises `RequestError` if both are one lake.
    """
    if built.lake.storage.uri == to.lake.storage.uri:
        raise RequestError("an environment cannot be promoted to itself", got=to.settings.env, do="name another one")
    promoted: dict[str, int | None] = {}
    found = []
    for definition in to.project.graph.all_of(Table):
        found.append(_planned(to, definition, built.version(definition.name), promoted))
        if found[-1].action == "promote":
            promoted[definition.name] = found[-1].built
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
    second promotion continues.

    Raises `ConflictError` if a table, in either environment, or one of its inputs is no longer at the commit of the plan.
    If that is so from the start, nothing is changed; if another process commits meanwhile, the tables before it are promoted.
    """
    chosen = tuple(each for each in plan if each.action == "promote")
    promoter = _Promoter(built, to, clock, reached)
    for each in chosen:
        promoter.require_planned(each, {other.table for other in chosen})
    return {each.table: promoter.promoted(each) for each in chosen}


def _planned(to: Workspace, definition: Table, theirs: Version | None, promoted: Mapping[str, int | None]) -> Promotion:
    name, own = definition.name, to.version(definition.name)
    is_current = own is not None and _is_current(to, definition, own)
    if is_current and not promoted.keys() & set(definition.inputs):
        return Promotion(name, "unchanged", "the current definition built it")
    if theirs is None:
        return Promotion(name, "build", "it was not built there")
    reason = _obstacle(to, definition, theirs, own) or _other_input(to, theirs, promoted)
    if reason is not None:
        return Promotion(name, "build", reason)
    size = sum(file.size_bytes for file in theirs.files)
    return Promotion(
        name,
        "promote",
        f"version {theirs.number} has the same inputs",
        theirs.rows,
        size,
        built=theirs.manifest_id,
        own=None if own is None else own.manifest_id,
    )


def _is_current(to: Workspace, definition: Table, version: Version) -> bool:
    manifest = version.manifest
    return manifest is not None and is_computed_by(to, definition, version, manifest.fingerprint)


def _obstacle(to: Workspace, definition: Table, theirs: Version, own: Version | None) -> str | None:
    """Return why a version cannot be promoted, apart from its inputs; `None` if it can."""
    manifest = theirs.manifest
    if manifest is None or not _is_current(to, definition, theirs):
        return "another definition built it there"
    if manifest.epoch is not None:
        return "a stream writes it"
    if definition.remembers and own is not None:
        return "it has history of its own here"
    reads_feed = any(isinstance(to.definition(name), Feed) for name in definition.inputs)
    return "it reads a source that is not stored" if reads_feed else None


def _other_input(to: Workspace, theirs: Version, promoted: Mapping[str, int | None]) -> str | None:
    """Return that an input has other rows than those from which a version was built; `None` if none has."""
    for name, mark in ({} if theirs.manifest is None else theirs.manifest.manifest_ids).items():
        if mark is None or (promoted[name] if name in promoted else _manifest_id(to, name)) != mark:
            return f"its input {name!r} has other rows here"
    return None


def _manifest_id(workspace: Workspace, name: str) -> int | None:
    version = workspace.version(name, lenient=True)
    return None if version is None else version.manifest_id


@dataclass(frozen=True)
class _Promoter:
    """Promotes tables in order."""

    built: Workspace
    to: Workspace
    clock: Clock
    reached: Callable[[Moment, str], None]
    before: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    """For each table that was promoted: its version and manifest id here."""

    def require_planned(self, planned: Promotion, promoted: Collection[str]) -> None:
        """Raise `ConflictError` if a table or one of its inputs is not at the commit of the plan; `promoted` inputs need not be."""
        theirs, _ = self._versions(planned)
        for name, mark in theirs.manifest.manifest_ids.items() if theirs.manifest is not None else ():
            if name not in promoted and _manifest_id(self.to, name) != mark:
                raise self._conflict(name, self.to)

    def promoted(self, planned: Promotion) -> Version:
        """Take over the files of a table, and commit them on top of the version of the plan."""
        name, run_id = planned.table, f"promote-{secrets.token_hex(4)}"
        source, table = self.built.table(name), self.to.table(name)
        theirs, own = self._versions(planned)
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
            self._versions(planned)  # the quarantine that was read is that of the version
            committed = table.commit(manifest, files, theirs.schema, own)
        self.reached(Moment.COMMITTED, name)
        post_commit(self.to, self.to.stored(name), committed)
        self.to.lake.end_run(run_id)
        self.before[name] = (committed.number, committed.manifest_id)
        return committed

    def _versions(self, planned: Promotion) -> tuple[Version, Version | None]:
        """Return the version to promote and the one that it replaces; raise `ConflictError` if they are not those of the plan."""
        theirs, own = self.built.version(planned.table), self.to.version(planned.table)
        if theirs is None or theirs.manifest_id != planned.built:
            raise self._conflict(planned.table, self.built)
        if (None if own is None else own.manifest_id) != planned.own:
            raise self._conflict(planned.table, self.to)
        return theirs, own

    def _conflict(self, name: str, where: Workspace) -> ConflictError:
        return ConflictError(
            f"another process has committed {name!r} in environment {where.settings.env!r} since the promotion was planned",
            do=f"plan it again: headwater env promote {self.built.settings.env} --to {self.to.settings.env}",
        )

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
        """Return the manifest here: the consumed versions are the ones here with the rows that were consumed there."""
        inputs, marks = dict[str, int](), dict[str, int | None]()
        for each, mark in manifest.manifest_ids.items():
            if each in self.before:
                inputs[each], marks[each] = self.before[each]
                continue
            here = self.to.require(each)
            if here.manifest_id != mark:
                raise self._conflict(each, self.to)
            inputs[each], marks[each] = here.number, mark
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
