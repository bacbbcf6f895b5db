"""The aggregate states of a grouped table's last version, kept beside the table, so that new rows are added to them.

They are a cache: without them, the table is computed from all rows. A file is named after the run that committed the
version and after the version of DuckDB, because the layout of a state depends on it. It is written before the commit, so
each committed version either has its states or none, and files of runs that did not commit are never read.

States that exceed the limit are noted in the same way, so that the next rebuild does not compute them in vain.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import cast

import duckdb
import pyarrow as pa

from pipeline.batch.planning import decomposed
from pipeline.batch.step import StepSpec
from pipeline.core.definitions import Table
from pipeline.core.errors import StorageError
from pipeline.core.logs import logger
from pipeline.kernel.aggregates.states import ExportedState
from pipeline.kernel.sql import SqlTransform
from pipeline.lake import Storage

log = logger(__name__)

LEAST_ROWS = 100_000
"""The least number of rows of the driving input for which states are kept; fewer are aggregated again in no time."""
MOST_BYTES = 64 << 20
"""The maximum size of the states of a table."""
LEAST_ROWS_PER_GROUP = 4
"""The least number of rows per group, on average: with fewer, the states are not much smaller than the rows."""


@dataclass(frozen=True)
class KeptStates:
    """The folder with the states of a table."""

    storage: Storage

    @classmethod
    def of(cls, table: Storage) -> KeptStates:
        """Return the folder below a table."""
        return cls(table.at("_headwater", "states"))

    def has(self, run_id: str) -> bool:
        """Return whether the version that a run committed has states; raise `StorageError` if the store fails."""
        return self.storage.has(_name(run_id))

    def read(self, run_id: str) -> pa.Table | None:
        """Return the states of the version that a run committed, or `None` if they cannot be read."""
        try:
            with pa.ipc.open_file(self.storage.read_bytes(_name(run_id))) as reader:
                return reader.read_all()
        except (StorageError, pa.ArrowException) as error:
            log.warning("aggregate states cannot be read", place=self.storage.uri, error=str(error))
            return None

    def write(self, run_id: str, states: pa.Table) -> None:
        """Write the states of the version that a run is about to commit; a failure is logged, because they are a cache."""
        content = io.BytesIO()
        with pa.ipc.new_file(content, states.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(states)
        try:
            self.storage.write_bytes(_name(run_id), content.getvalue())
        except StorageError as error:
            log.warning("aggregate states cannot be kept", place=self.storage.uri, error=str(error))

    def exceed_limit(self, run_id: str) -> bool:
        """Return whether the states of the version that a run committed exceeded the limit, so that they were of no use."""
        return self.storage.has(_too_large(run_id))

    def note_too_large(self, run_id: str) -> None:
        """Note that the states of the version that a run is about to commit exceed the limit; a failure is logged."""
        try:
            self.storage.write_text(_too_large(run_id), "the aggregate states exceed the limit\n")
        except StorageError as error:
            log.warning("aggregate states will be computed again", place=self.storage.uri, error=str(error))

    def remove_others(self, run_id: str) -> None:
        """Remove what is known of other versions; a failure is logged, and the next commit removes it."""
        try:
            self.storage.remove(
                [name for name in self.storage.names() if name not in {_name(run_id), _too_large(run_id)}]
            )
        except StorageError as error:
            log.warning("old aggregate states remain", place=self.storage.uri, error=str(error))


def may_keep_states(spec: StepSpec) -> bool:
    """Return whether the states of a step are worth keeping: each of a fixed size, for many rows of a stored input."""
    plan = spec.execution_plan
    if plan.strategy != "partial" or spec.feed is not None:
        return False
    if spec.refresh is None and spec.scans[plan.driving].rows < LEAST_ROWS:
        return False
    calls = decomposed(cast("SqlTransform", cast("Table", spec.definition).transform)).calls
    return all(isinstance(call, ExportedState) and not call.order for call in calls)


def are_small(states: pa.Table, rows_in: int | None) -> bool:
    """Return whether states are so small that they are kept; `rows_in` is the number of their rows, if it is known."""
    is_few = rows_in is None or states.num_rows * LEAST_ROWS_PER_GROUP <= rows_in
    return is_few and bool(states.nbytes <= MOST_BYTES)


def _too_large(run_id: str) -> str:
    return f"{run_id}-too-large.txt"


def _name(run_id: str) -> str:
    return f"{run_id}-duckdb-{duckdb.__version__}.arrow"
