"""The catalog: runs, steps, table versions, row counts, expectations and lineage.

It is stored outside the lake and can be lost without loss of data: the decisions of a run use only the manifests in the
lake. Recording the same step twice leaves one record.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from pipeline.core.definitions import Action, Verdict
from pipeline.core.errors import StorageError
from pipeline.core.schema import Schema
from pipeline.core.staging import RowCounts
from pipeline.governance.revisions import bring_up_to_date

METADATA = sa.MetaData()
"""The tables, as defined by the newest revision in `migrations`."""
_RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("project", sa.String, nullable=False),
    sa.Column("env", sa.String, nullable=False),
    sa.Column("started_at", sa.String, nullable=False),
    sa.Column("ended_at", sa.String),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("error", sa.Text),
)
_STEPS = sa.Table(
    "steps",
    METADATA,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("layer", sa.String, nullable=False),
    sa.Column("decision", sa.String, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("strategy", sa.String, nullable=False),
    sa.Column("executor", sa.String, nullable=False),
    sa.Column("version", sa.BigInteger),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("total_rows", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in asdict(RowCounts())),
)
_CHECKS = sa.Table(
    "checks",
    METADATA,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("expectation", sa.String, primary_key=True),
    sa.Column("condition", sa.Text, nullable=False),
    sa.Column("action", sa.String, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("violations", sa.BigInteger, nullable=False),
)
_VERSIONS = sa.Table(
    "versions",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("layer", sa.String, nullable=False),
    sa.Column("run_id", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("schema_json", sa.Text, nullable=False),
)
_LINEAGE = sa.Table(
    "lineage",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("input", sa.String, primary_key=True),
    sa.Column("input_version", sa.BigInteger, nullable=False),
)
_VERDICTS = sa.Table(
    "verdicts",
    METADATA,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("accepted", sa.Boolean, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("metrics_json", sa.Text, nullable=False),
    sa.Column("uri", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
)

_PARTITIONS = sa.Table(
    "partitions",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("partition_json", sa.String, primary_key=True),
    sa.Column("backfill", sa.String, nullable=False),
    sa.Column("run_id", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("error", sa.Text),
)
_COLUMN_CHANGES = sa.Table(
    "column_changes",
    METADATA,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("column", sa.String, primary_key=True),
    sa.Column("type_before", sa.String, nullable=False),
    sa.Column("type", sa.String, nullable=False),
    sa.Column("read_by_json", sa.Text, nullable=False),
    sa.Column("at", sa.String, nullable=False),
)
_SYSTEMS = sa.Table(
    "systems",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("paused_s", sa.Float, nullable=False),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("failures", sa.BigInteger, nullable=False),
    sa.Column("run_id", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
)


UNCHANGED = ("skip", "streamed")
"""The decisions of steps without work: their tables are up to date, or updated by a stream."""
FAILED = ("failed", "upstream_failed")
"""The decisions of steps that committed nothing because they or an upstream step failed."""


@dataclass(frozen=True)
class CheckRecord:
    """The number of rows that were computed, and of those that violated an expectation."""

    expectation: str
    condition: str
    action: Action
    rows: int
    violations: int


@dataclass(frozen=True)
class StepRecord:
    """What a run did with one definition."""

    name: str
    number: int
    kind: str
    layer: str
    decision: str
    """`skip`, `create`, `append`, `merge`, `refresh`, `rebuild`, `backfill`, `accepted`, `refused`, `sent`, `failed` or
    `upstream_failed`."""
    reason: str
    strategy: str = ""
    executor: str = ""
    version: int | None = None
    seconds: float = 0.0
    total_rows: int = 0
    flow: RowCounts = field(default_factory=RowCounts)
    checks: Sequence[CheckRecord] = ()
    verdict: Verdict | None = None

    @property
    def outcome(self) -> str:
        """The decision for display: a step downstream of a failed one is `skipped`."""
        return "skipped" if self.decision == "upstream_failed" else self.decision

    @property
    def has_failed(self) -> bool:
        """Whether the step failed, or was skipped because an upstream step failed."""
        return self.decision in FAILED

    @property
    def is_unchanged(self) -> bool:
        """Whether there was nothing to do: the table is up to date, or updated by a stream."""
        return self.decision in UNCHANGED

    @property
    def is_done(self) -> bool:
        """Whether the step completed work: it did not fail and was not up to date."""
        return self.decision not in {*UNCHANGED, *FAILED}


@dataclass(frozen=True)
class RunRecord:
    """A run and its steps, in the order of execution."""

    run_id: str
    project: str
    env: str
    started_at: str
    ended_at: str | None
    status: str
    """`running`, `done`, `failed`, `refused` or `stopped`; a killed run is `running` until the next run on its machine."""
    error: str | None
    steps: Sequence[StepRecord] = ()


@dataclass(frozen=True)
class VersionRecord:
    """A version of a table: when, by which run, from which versions of its inputs."""

    name: str
    version: int
    layer: str
    run_id: str
    at: str
    rows: int
    size_bytes: int
    schema: Schema
    inputs: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BackfillRecord:
    """The last result of a backfill for one partition of a table; `error` is `None` if it succeeded."""

    name: str
    partition: str | None
    backfill: str
    run_id: str
    at: str
    rows: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class ColumnChange:
    """A new column of a source, or a column with another type; recorded before it is committed."""

    name: str
    """The name of the source."""
    column: str
    type_before: str
    """Empty for a new column."""
    type: str
    read_by: Sequence[str] = ()
    """The definitions that it reaches, upstream first."""
    run_id: str = ""
    at: str = ""

    def __str__(self) -> str:
        """Return the change and what it reaches, for the reason of a step."""
        what = f"is {self.type} now, not {self.type_before}" if self.type_before else f"({self.type}) is new"
        reached = f", read by {', '.join(self.read_by)}" if self.read_by else ", read by no definition"
        return f"{self.column!r} {what}{reached}"


@dataclass(frozen=True)
class SystemRecord:
    """A system that connectors called, as its guard knew it at the end of a run."""

    name: str
    """Its address."""
    state: str
    """The state of its circuit breaker: `closed`, `open` or `half open`."""
    paused_s: float
    """How long no calls would be made from then on, because the system asked for it."""
    calls: int
    failures: int
    """The number of calls that failed temporarily."""
    run_id: str
    """The run that called it last."""
    at: str


class Catalog:
    """The catalog at a SQLAlchemy URL. Its tables are created or upgraded on first use. Errors are `StorageError`s."""

    def __init__(self, url: str) -> None:
        """Create the catalog without opening it."""
        self._url = url
        self._engine: sa.Engine | None = None
        self._opening = threading.Lock()

    def close(self) -> None:
        """Close its connections; the next use opens it again."""
        with self._opening:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def begin(self, run: RunRecord) -> None:
        """Record that a run has started."""
        with self.transaction() as connection:
            connection.execute(_RUNS.insert().values(_plain(run, "steps")))

    def end(self, run_id: str, at: str, status: str, error: str | None = None) -> None:
        """Record the end of a run."""
        with self.transaction() as connection:
            run = _RUNS.update().where(_RUNS.c.run_id == run_id)
            connection.execute(run.values(ended_at=at, status=status, error=error))

    def end_killed(self, run_ids: Sequence[str], at: str) -> None:
        """Record the end of runs whose process was killed before it could."""
        with self.transaction() as connection:
            killed = _RUNS.update().where(_RUNS.c.run_id.in_(run_ids), _RUNS.c.status == "running")
            connection.execute(killed.values(ended_at=at, status="stopped", error="its process was killed"))

    def record(self, run_id: str, step: StepRecord) -> None:
        """Record a step with its checks and verdict, replacing an earlier record of it."""
        with self.transaction() as connection:
            for table in (_STEPS, _CHECKS, _VERDICTS):
                connection.execute(table.delete().where(table.c.run_id == run_id, table.c.name == step.name))
            row = {**_plain(step, "flow", "checks", "verdict"), **asdict(step.flow), "run_id": run_id}
            connection.execute(_STEPS.insert().values(row))
            for check in step.checks:
                row = {**asdict(check), "action": check.action.value, "run_id": run_id, "name": step.name}
                connection.execute(_CHECKS.insert().values(row))
            if step.verdict is not None:
                row = {**asdict(step.verdict), "run_id": run_id, "name": step.name}
                row["metrics_json"] = json.dumps(dict(row.pop("metrics")))
                connection.execute(_VERDICTS.insert().values(row))

    def keep(self, record: VersionRecord) -> None:
        """Record a version and its lineage, replacing an earlier record of it."""
        with self.transaction() as connection:
            for table in (_VERSIONS, _LINEAGE):
                same = (table.c.name == record.name, table.c.version == record.version)
                connection.execute(table.delete().where(*same))
            row = {**_plain(record, "schema", "inputs"), "schema_json": json.dumps(record.schema.as_dict())}
            connection.execute(_VERSIONS.insert().values(row))
            for name, version in record.inputs.items():
                row = {"name": record.name, "version": record.version, "input": name, "input_version": version}
                connection.execute(_LINEAGE.insert().values(row))

    def fill(self, filled: BackfillRecord) -> None:
        """Record the result of a partition, replacing an earlier record of it."""
        with self.transaction() as connection:
            row = {**_plain(filled, "partition"), "partition_json": json.dumps(filled.partition)}
            same = (_PARTITIONS.c.name == filled.name, _PARTITIONS.c.partition_json == row["partition_json"])
            connection.execute(_PARTITIONS.delete().where(*same))
            connection.execute(_PARTITIONS.insert().values(row))

    def filled(self, name: str) -> tuple[BackfillRecord, ...]:
        """Return the last result of backfills for each partition of a table, in no particular order."""
        with self.transaction() as connection:
            rows = connection.execute(_PARTITIONS.select().where(_PARTITIONS.c.name == name)).mappings().all()
            records = [dict(row) for row in rows]
            return tuple(BackfillRecord(partition=json.loads(row.pop("partition_json")), **row) for row in records)

    def record_column_changes(self, run_id: str, at: str, changes: Sequence[ColumnChange]) -> None:
        """Record changes of columns by a run, replacing earlier records of the same changes."""
        with self.transaction() as connection:
            for change in changes:
                row = {
                    **_plain(change, "read_by"),
                    "read_by_json": json.dumps(change.read_by),
                    "run_id": run_id,
                    "at": at,
                }
                same = (_COLUMN_CHANGES.c[name] == row[name] for name in ("run_id", "name", "column"))
                connection.execute(_COLUMN_CHANGES.delete().where(*same))
                connection.execute(_COLUMN_CHANGES.insert().values(row))

    def column_changes(self, name: str) -> tuple[ColumnChange, ...]:
        """Return the recorded changes of the columns of a source, newest first."""
        with self.transaction() as connection:
            query = _COLUMN_CHANGES.select().where(_COLUMN_CHANGES.c.name == name)
            rows = [dict(row) for row in connection.execute(query.order_by(_COLUMN_CHANGES.c.at.desc())).mappings()]
            return tuple(ColumnChange(read_by=tuple(json.loads(row.pop("read_by_json"))), **row) for row in rows)

    def record_systems(self, systems: Sequence[SystemRecord]) -> None:
        """Record systems, replacing earlier records of them."""
        with self.transaction() as connection:
            for system in systems:
                connection.execute(_SYSTEMS.delete().where(_SYSTEMS.c.name == system.name))
                connection.execute(_SYSTEMS.insert().values(asdict(system)))

    def systems(self) -> tuple[SystemRecord, ...]:
        """Return the systems that were called, by name."""
        with self.transaction() as connection:
            rows = connection.execute(_SYSTEMS.select().order_by(_SYSTEMS.c.name)).mappings()
            return tuple(SystemRecord(**row) for row in rows)

    def runs(self, limit: int = 20) -> tuple[RunRecord, ...]:
        """Return the newest runs, newest first, without their steps."""
        with self.transaction() as connection:
            rows = connection.execute(_RUNS.select().order_by(_RUNS.c.started_at.desc()).limit(limit))
            return tuple(RunRecord(**row._mapping) for row in rows)  # noqa: SLF001 - SQLAlchemy's public name for it

    def run(self, run_id: str | None = None) -> RunRecord | None:
        """Return a run with its steps (default: the newest run), or `None` if there is none."""
        with self.transaction() as connection:
            query = _RUNS.select().order_by(_RUNS.c.started_at.desc()).limit(1)
            if run_id is not None:
                query = query.where(_RUNS.c.run_id == run_id)
            row = connection.execute(query).first()
            if row is None:
                return None
            fields = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
            return RunRecord(**fields, steps=_steps(connection, fields["run_id"]))

    def last_step(self, name: str) -> StepRecord | None:
        """Return the newest step of a definition that completed work."""
        with self.transaction() as connection:
            query = sa.select(_STEPS.c.run_id).join(_RUNS, _RUNS.c.run_id == _STEPS.c.run_id)
            query = query.where(_STEPS.c.name == name, _STEPS.c.decision.not_in([*UNCHANGED, *FAILED]))
            row = connection.execute(query.order_by(_RUNS.c.started_at.desc()).limit(1)).first()
            if row is None:
                return None
            return next(step for step in _steps(connection, row[0]) if step.name == name)

    def has_version(self, name: str, version: int, run_id: str) -> bool:
        """Return whether a version of a table is recorded as that of a run."""
        with self.transaction() as connection:
            same = (_VERSIONS.c.name == name, _VERSIONS.c.version == version, _VERSIONS.c.run_id == run_id)
            return connection.execute(sa.select(_VERSIONS.c.version).where(*same)).first() is not None

    def versions(self, name: str) -> tuple[VersionRecord, ...]:
        """Return the recorded versions of a table, newest first, with the versions of their inputs."""
        with self.transaction() as connection:
            rows = connection.execute(
                _VERSIONS.select().where(_VERSIONS.c.name == name).order_by(_VERSIONS.c.version.desc())
            ).mappings()
            inputs: dict[int, dict[str, int]] = {}
            for edge in connection.execute(_LINEAGE.select().where(_LINEAGE.c.name == name)).mappings():
                inputs.setdefault(edge["version"], {})[edge["input"]] = int(edge["input_version"])
            return tuple(_version_record(dict(row), inputs.get(row["version"], {})) for row in rows)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Run the context in one transaction; raise `StorageError` if the catalog cannot be used."""
        try:
            with self._opening:
                if self._engine is None:
                    self._engine = _open(self._url)
            with self._engine.begin() as connection:
                yield connection
        except (sa.exc.SQLAlchemyError, OSError, ModuleNotFoundError) as error:
            raise StorageError(
                f"the catalog at {_shown(self._url)} cannot be used",
                got=str(getattr(error, "orig", None) or error).partition("\n")[0],
                do="check its address, its driver, and that it is writable",
            ) from error


def _open(url: str) -> sa.Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, connect_args={"timeout": 30} if parsed.get_backend_name() == "sqlite" else {})
    try:
        bring_up_to_date(engine, f"the catalog at {_shown(url)}")
    except BaseException:
        engine.dispose()
        raise
    return engine


def _shown(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return "an invalid address"


def _plain(value: Any, *without: str) -> dict[str, Any]:
    return {name: part for name, part in vars(value).items() if name not in without}


def _steps(connection: sa.Connection, run_id: str) -> tuple[StepRecord, ...]:
    def rows(table: sa.Table) -> Sequence[sa.RowMapping]:
        return connection.execute(table.select().where(table.c.run_id == run_id)).mappings().all()

    checks, verdicts = rows(_CHECKS), rows(_VERDICTS)
    return tuple(_step(dict(row), checks, verdicts) for row in sorted(rows(_STEPS), key=lambda row: int(row["number"])))


def _step(row: dict[str, Any], checks: Sequence[sa.RowMapping], verdicts: Sequence[sa.RowMapping]) -> StepRecord:
    del row["run_id"]
    flow = RowCounts(**{name: row.pop(name) for name in asdict(RowCounts())})
    own_checks = tuple(
        CheckRecord(c["expectation"], c["condition"], Action(c["action"]), c["rows"], c["violations"])
        for c in checks
        if c["name"] == row["name"]
    )
    verdict = next((_verdict(v) for v in verdicts if v["name"] == row["name"]), None)
    return StepRecord(**row, flow=flow, checks=own_checks, verdict=verdict)


def _verdict(row: sa.RowMapping) -> Verdict:
    return Verdict(
        accepted=row["accepted"],
        reason=row["reason"],
        metrics=json.loads(row["metrics_json"]),
        uri=row["uri"],
        version=row["version"],
        rows=row["rows"],
    )


def _version_record(row: dict[str, Any], inputs: Mapping[str, int]) -> VersionRecord:
    schema = Schema.of(json.loads(row.pop("schema_json")))
    return VersionRecord(**row, schema=schema, inputs=inputs)
