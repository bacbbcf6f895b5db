"""The lake: a location with tables, their quarantines, and the temporary data of runs."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from pipeline.core.errors import OutcomeUnknownError, StorageError
from pipeline.core.lake_policy import DEFAULT_POLICY, LakePolicy
from pipeline.core.logs import logger
from pipeline.core.scratch import Owner
from pipeline.kernel.engine import connect
from pipeline.lake.delta import LakeTable, Version
from pipeline.lake.storage import Storage

log = logger(__name__)
_SCRATCH = "_headwater"
"""The folder of the temporary data of runs: `run-<process>/<run>/steps/<table>-<hex>`, and the notes of what they stage."""
_NOTES = "staging"
"""The folder of these notes: `<layer>/<table>/<version>`, with the version before, or -1."""
_BEGUN = "begun"
"""The file that notes that a run has begun."""
QUARANTINE_FOLDER = "quarantine"
"""The folder of the quarantine tables, next to the folders of the layers."""


@dataclass(frozen=True)
class Lake:
    """A location with a folder per layer and a Delta table per definition."""

    storage: Storage
    _obsolete: set[str] = field(default_factory=set, compare=False, repr=False)
    """Notes of this process, with their run, that the next `end_run` removes: their steps have committed."""

    def table(
        self,
        layer: str,
        name: str,
        *,
        partition_by: tuple[str, ...] = (),
        description: str = "",
        policy: LakePolicy = DEFAULT_POLICY,
    ) -> LakeTable:
        """Return a table, whether it exists or not."""
        return LakeTable(self.storage.at(layer, name), name, partition_by, description, policy=policy)

    def quarantine(self, name: str, policy: LakePolicy = DEFAULT_POLICY) -> LakeTable:
        """Return the quarantine table of a table."""
        description = f"Quarantined rows of {name}"
        storage = self.storage.at(QUARANTINE_FOLDER, name)
        return LakeTable(storage, name, description=description, is_quarantine=True, policy=policy)

    def scratch(self, run_id: str, name: str) -> Storage:
        """Return a new location for temporary data of a step, accessible to all workers; its path names this process.

        A run may call this several times for a name: for two shared reads of a source, whose files have the same names.
        """
        return self._run(run_id).at("steps", f"{name}-{secrets.token_hex(4)}")

    def _run(self, run_id: str) -> Storage:
        return self.storage.at(_SCRATCH, Owner.of_process(os.getpid()).folder, run_id)

    def begin_run(self, run_id: str) -> None:
        """Note that this process runs a run, so that `reclaim` finds it if the process is killed; a failure is logged."""
        with _logged_failure():
            self._run(run_id).touch(_BEGUN)

    def note_staging(self, table: LakeTable, run_id: str, seen: Version | None) -> str:
        """Note that a run stages files and commits them on top of a version, for `end_run`; return the note."""
        path = table.storage.uri.removeprefix(f"{self.storage.uri.rstrip('/')}/")
        note = f"{_NOTES}/{path}/{-1 if seen is None else seen.number}"
        self._run(run_id).touch(note)
        return note

    @contextmanager
    def staging(
        self, table: LakeTable, run_id: str, seen: Version | None, *, meanwhile: bool = False
    ) -> Iterator[Callable[[], str]]:
        """Note what a step stages until it has committed; the note remains if it fails.

        If the outcome of the commit is unknown, the files are kept. With `meanwhile`, an object store writes the note while
        the step computes. The function that is yielded waits for it, and must be called before the commit; what a process
        stages that is killed before then is left to the vacuum.
        """
        run = self._run(run_id)
        with ThreadPoolExecutor(1) as pool:
            if run.is_local or not meanwhile:
                noted: Callable[[], str] = partial(str, self.note_staging(table, run_id, seen))
            else:
                noted = pool.submit(self.note_staging, table, run_id, seen).result
            with self._until_committed(run, run_id, table, noted):
                yield noted

    @contextmanager
    def _until_committed(self, run: Storage, run_id: str, table: LakeTable, noted: Callable[[], str]) -> Iterator[None]:
        try:
            yield
        except OutcomeUnknownError:
            note = noted()
            run.remove([note])
            raise
        note = noted()
        if not run.is_local:
            self._obsolete.add(f"{run_id}/{note}")  # `end_run` removes them with one request
            return
        try:
            run.remove([note])
        except StorageError as error:  # it has no effect on a commit
            log.warning("the note of a step that has committed remains", table=table.name, error=str(error))

    def end_run(self, run_id: str) -> None:
        """Remove the temporary data of a run of this process, and the files that it has staged and not committed.

        A failure is logged, because it does not affect the tables.
        """
        with _logged_failure():
            self._remove_uncommitted(self._run(run_id), run_id)
            self.storage.at(_SCRATCH, Owner.of_process(os.getpid()).folder).remove_if_empty()

    def reclaim(self) -> tuple[str, ...]:
        """Remove what `end_run` removes for the runs of killed processes, and return the names of these runs.

        Only a process on the same machine is known to have ended, so the data of other machines is kept.
        """
        killed: list[str] = []
        with _logged_failure():
            place = self.storage.at(_SCRATCH)
            for folder, runs in self._of_killed():
                for run_id in runs:
                    self._remove_uncommitted(place.at(folder, run_id), run_id)
                    killed.append(run_id)
                place.at(folder).clear()
                log.info("removed what a killed run has left in the lake", folder=folder)
        return tuple(killed)

    def killed(self) -> frozenset[str]:
        """Return the runs of killed processes of this machine that no other run has found yet; raise `StorageError`."""
        return frozenset(run_id for _, runs in self._of_killed() for run_id in runs)

    def _of_killed(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield the folders of killed processes, with the runs in them."""
        place = self.storage.at(_SCRATCH)
        for folder in place.list_folder(""):
            owner = Owner.of_folder(folder)
            if owner is not None and owner.is_dead:
                yield folder, place.list_folder(folder)

    def _remove_uncommitted(self, place: Storage, run_id: str) -> None:
        """Remove the files of a run that the notes in its folder lead to, and then the folder."""
        names = place.names()
        for note in (name for name in names if name.startswith(f"{_NOTES}/")):
            if f"{run_id}/{note}" in self._obsolete:
                continue
            _, layer, name, number = note.split("/")
            table = self.table(layer, name)
            committed = table.committed_since(int(number))
            if committed is not None:
                table.stager(run_id).keep_only(committed.table)
                self.quarantine(name).stager(run_id).keep_only(committed.quarantine)
        if place.is_local:
            place.clear()
        else:
            place.remove(names)

    def rows(self, table: LakeTable) -> pa.Table:
        """Return all rows of a table's newest version."""
        version = table.version()
        if version is None:
            raise StorageError(f"table {table.name!r} does not exist yet", do="run the project first")
        with connect(filesystem=self.storage.filesystem()) as con:
            return con.sql(version.scan().query()).to_arrow_table()


@contextmanager
def _logged_failure() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the tables are not affected
        log.warning("removing uncommitted files failed and is retried later", error=str(error))
