"""A session with a project: what a notebook, a script or a shell of Python does with it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa

from ml.features.online_features import OnlineFeatures
from ml.session.display import rows_html, rows_text
from ml.session.given import given_table
from ml.session.loaded_model import LoadedModel
from ml.session.metrics import MetricBounds, metrics_sql
from ml.session.rows import FROM_GIVEN, GIVEN, Rows
from pipeline.core.as_of import AsOf, At
from pipeline.core.errors import RequestError
from pipeline.governance.run_leases import RunLease, holding
from pipeline.kernel.budget import budget_here
from pipeline.kernel.engine import connect as connect_engine
from pipeline.kernel.sql_text import quoted
from pipeline.project.project import Project, load
from pipeline.project.workspace import Workspace
from pipeline.runner.decide import RunOptions
from pipeline.runner.handlers import descriptions
from pipeline.runner.handlers.handler import Description
from pipeline.runner.runner import Runner, is_chosen


def connect(folder: Path | str = ".", *, env: str | None = None, at: At | None = None) -> Session:
    """Open the project in a folder or its parent folders, for a notebook or a script.

    `env` is an environment of headwater.toml. With `at`, tables are read as of a time or in given versions: see `AsOf.of`.
    Nothing runs, and no data is read. Raises `SettingsError` and `DefinitionError` as `headwater` does, and `RequestError` if
    `at` cannot be parsed.
    """
    return Session(load(folder, env=env), at)


class Session:
    """A project, with the definitions that it had when the session was opened."""

    def __init__(self, project: Project, at: At | None = None) -> None:
        """Create the session without opening anything."""
        self.project = project
        self.workspace = Workspace(project)
        self._at = self.workspace.as_of(at)
        self._online: OnlineFeatures | None = None
        self._engine: duckdb.DuckDBPyConnection | None = None
        self._open = ExitStack()

    @property
    def tables(self) -> Rows:
        """The definitions, with the newest version of each table: what `headwater ls` shows."""
        each = descriptions(self.workspace)
        shown = [field.name for field in fields(Description) if field.name != "owner" or any(d.owner for d in each)]
        return self._made([{name: getattr(described, name) for name in shown} for described in each])

    def table(self, name: str, version: int | None = None) -> Rows:
        """Return the rows of a table: also the results of an experiment or a monitor, and predictions.

        Raises `RequestError` for an unknown table or version, and `StorageError` for a table that does not exist yet.
        """
        if isinstance(version, bool) or not isinstance(version, int | None):
            raise RequestError(
                "this is no version of a table", got=repr(version), do="pass its number, or at= to connect"
            )
        self.workspace.stored(name)
        as_of = self._at if version is None else AsOf(versions={name: version})
        pinned = self.workspace.require(name, as_of=as_of)
        text, inputs = f"from {quoted(name)}", {name: pinned.scan()}
        return Rows(self.workspace, self._connection, text, inputs, (name, pinned.number))

    def sql(self, text: str) -> Rows:
        """Return the rows of a SELECT over the tables, in the versions that they have now.

        Raises `RequestError` for an unknown table and for an invalid SELECT, and `StorageError` for a table that does not exist yet.
        """
        return Rows(self.workspace, self._connection, text, self.workspace.scans(text, self._at))

    def metric(
        self,
        *names: str,
        dimensions: str | Sequence[str] = (),
        grain: str = "",
        where: str = "",
        begin: str = "",
        end: str = "",
    ) -> Rows:
        """Return metrics by dimensions, and by periods of a grain: the numbers that endpoints return to a caller that sees all rows.

        `where` is a SQL condition on dimensions of the metrics: `"dim_airline.name = 'United'"`. `begin` is the first time that counts, and
        `end` the first one that does not any more. Raises `RequestError` for an unknown metric, dimension or grain.
        """
        given = tuple(dimensions.split(",")) if isinstance(dimensions, str) else tuple(dimensions)
        asked = tuple(each.strip() for each in given if each.strip())
        return self.sql(metrics_sql(self.project.metrics, names, asked, grain, MetricBounds(where, begin, end)))

    def features(self, service: str, rows: Any, *, at: datetime | None = None) -> Rows:
        """Return rows with their features of this moment, or of `at`, from the online store; see `OnlineFeatures.get`.

        `service` is the name of a training set or a feature view. `rows` have the columns of its entities; a column that has the
        name of a feature is replaced.
        """
        if self._online is None:
            self._online = OnlineFeatures(self.project)
            self._open.callback(self._online.close)
        table = given_table(rows)
        features = self._online.get(service, table, at=at)
        columns = {name: table[name] for name in table.column_names}
        return self._rows_of(pa.table({**columns, **{name: features[name] for name in features.column_names}}))

    def model(self, name: str, version: int | None = None) -> LoadedModel:
        """Load a version of a model, by default the champion.

        Raises `RequestError` if there is none, and `StorageError` if it cannot be read.
        """
        from ml.models.registry.registry import Registry  # noqa: PLC0415 - imports MLflow, which is slow
        from ml.models.registry.versions import ModelVersions  # noqa: PLC0415 - likewise
        from ml.models.serving import Predictor  # noqa: PLC0415 - likewise

        store = self.workspace.settings.models
        registered = ModelVersions(store).require(name, version)
        number = str(registered.number)
        return LoadedModel(
            registered, Predictor(name, number, Registry(store).load(name, number).fitted), self._rows_of
        )

    def run(self, *select: str, full: bool = False) -> Rows:
        """Run the project, or some definitions (`NAME`, `+NAME` with its inputs, `NAME+` with its readers); return the steps.

        `full` computes everything anew. A model that its gate refuses is a step that is `refused`. Raises the first error of a step
        when all others have ended, and `ConflictError` if another run computes one of the tables.
        """
        self._require_now("run")
        runner = Runner(self.project, RunOptions(tuple(select), full))
        chosen = self.project.graph.select(tuple(select))
        names = [each.name for each in self.project.graph.definitions if is_chosen(each, chosen)]
        with holding(self.workspace.catalog, RunLease(runner.run_id, self.workspace.settings.lake, names)):
            record = runner.run()
        return self._made(
            [
                {
                    "name": step.name,
                    "decision": step.outcome,
                    "reason": step.reason,
                    "rows": step.total_rows,
                    "quarantined": step.flow.quarantined,
                    "seconds": round(step.seconds, 2),
                }
                for step in record.steps
            ]
        )

    def stream(self, *names: str) -> Rows:
        """Run streams (by default all) until they have processed what their logs contain; return what they did.

        Raises `RequestError` if there is no such stream, `ConflictError` if another process runs one, and the first error of a stream.
        """
        from pipeline.streaming.runtime.job import catch_up  # noqa: PLC0415 - most sessions have no stream

        self._require_now("stream")
        statuses = catch_up(self.workspace, names).statuses.values()
        return self._made(
            [
                {"name": each.name, "epoch": each.epoch, "state_rows": each.state_rows, **each.totals}
                for each in statuses
            ]
        )

    def verify(self, name: str) -> Rows:
        """Recompute the table of a stream in batch, and return how many rows differ; see `headwater verify`."""
        from pipeline.streaming.runtime.verify import verify  # noqa: PLC0415 - most sessions have no stream

        result = asdict(verify(self.workspace, name))
        counts = ("rows_expected", "rows_there", "rows_remembered", "missing", "unexpected", "doubled", "lost")
        return self._made([{"stream": name, **{count: result[count] for count in counts}}])

    def close(self) -> None:
        """Close the connections. Relations of DuckDB cannot be read any more; the session can be used again."""
        self._online = self._engine = None
        self._open.close()

    def __enter__(self) -> Self:
        """Return the session."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the session."""
        self.close()

    def __repr__(self) -> str:
        """Return the definitions as a text table."""
        return rows_text(self.tables.arrow(), self._title())

    def _repr_html_(self) -> str:
        return rows_html(self.tables.arrow(), self._title())

    def _title(self) -> str:
        settings = self.project.settings
        return f"project {settings.name}, environment {settings.env}, lake {settings.lake}"

    def _require_now(self, what: str) -> None:
        if self._at != AsOf():
            problem = f"this session reads tables as they were, and cannot {what}"
            raise RequestError(problem, do="open one without at=")

    def _made(self, rows: Sequence[dict[str, Any]]) -> Rows:
        return self._rows_of(given_table(rows))

    def _rows_of(self, table: pa.Table) -> Rows:
        return Rows(self.workspace, self._connection, FROM_GIVEN, {GIVEN: table})

    def _connection(self) -> duckdb.DuckDBPyConnection:
        if self._engine is None:
            limits = budget_here(self.workspace.settings.memory_bytes).whole()
            filesystem = self.workspace.lake.storage.filesystem()
            self._engine = self._open.enter_context(connect_engine(limits, filesystem=filesystem, keep=False))
        return self._engine
