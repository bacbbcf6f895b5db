"""The plan of a stream: its table, its streamed inputs, and how their rows become rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property, partial
from typing import cast

import duckdb
import pyarrow as pa
from sqlglot import exp

from pipeline.core.definitions import Feed, Source, SourceDefinition, StoredDefinition, Streaming, Table
from pipeline.core.errors import DefinitionError, RequestError, did_you_mean
from pipeline.core.event_time import EventTime, require_event_time
from pipeline.core.fingerprint import fingerprint
from pipeline.core.functions import FunctionTransform
from pipeline.core.refusal import Refusal
from pipeline.core.schema import Schema
from pipeline.core.sources import PROVENANCE
from pipeline.core.state_identity import StateIdentity
from pipeline.kernel.engine import arrow, connect, schema_of
from pipeline.kernel.frames import call
from pipeline.kernel.planner.projection import used_columns
from pipeline.kernel.planner.provenance import with_provenance, without_provenance
from pipeline.kernel.planner.strategy import choose_strategy
from pipeline.kernel.scan import Scan, register
from pipeline.kernel.sql import SqlTransform, statement_of
from pipeline.kernel.sql_text import listed, quoted
from pipeline.kernel.type_widening import widened
from pipeline.kernel.types import as_stored, stored
from pipeline.project.contracts import stream_contract
from pipeline.project.readers import log_of
from pipeline.project.workspace import Workspace
from pipeline.streaming.operators.batch_form import StreamedInput
from pipeline.streaming.operators.operator import BEGINNING, DeclaredState, Emits, Operator, Prepared, WatermarkAdvance
from pipeline.streaming.operators.operator_factory import operator_of
from pipeline.streaming.operators.shard import open_shard, with_hash
from pipeline.streaming.planning.inputs import StreamInput
from pipeline.streaming.planning.table_log import TableInput, TableLog


@dataclass(frozen=True)
class StreamPlan:
    """A planned stream, ready to be opened."""

    definition: StoredDefinition
    inputs: tuple[StreamInput, ...]
    lookups: tuple[str, ...] = ()
    """The tables of the lake that are looked up at their current version."""
    operator: Operator | None = None
    """The stateful operator; None if rows are computed independently."""
    statement: str = ""
    """For a stream without state: the SELECT over the input, by its name."""
    hidden: tuple[str, ...] = ()
    reason: str = ""
    may_widen: bool = False
    """Whether its table and its state follow wider types of the source from which its rows come."""
    find_schema: Callable[[StreamPlan], Schema] = field(default=lambda _: Schema(()), repr=False, compare=False)
    """Runs the stream without rows to determine the columns of its table."""
    find_function: Callable[[], FunctionTransform | None] = field(default=lambda: None, repr=False, compare=False)
    """Returns the function of blocks that computes the rows, with the artifact that it uses."""

    @property
    def name(self) -> str:
        """The name of the stream and of its table."""
        return self.definition.name

    @property
    def emits(self) -> Emits:
        """Whether rows are appended to the table or replace previous ones."""
        return "append" if self.operator is None else self.operator.emits

    def prepared(self, before: Mapping[str, int] | int = BEGINNING) -> dict[str, Prepared]:
        """Return how the rows of each input are prepared, given the watermark before them."""
        if self.operator is None:
            return {stream_input.name: Prepared(self.statement) for stream_input in self.inputs}
        at = before if isinstance(before, int) else min(before.values(), default=BEGINNING)
        return {name: self.operator.prepare(name, at) for name in self.operator.inputs}

    @cached_property
    def function(self) -> FunctionTransform | None:
        """The function of blocks that computes the rows; `None` for a stream with a statement or a state.

        The artifact that it uses, such as a model, is loaded on first use. Raises `ModelError` if there is none yet.
        """
        return self.find_function()

    def load(self) -> None:
        """Load the artifact that its function uses, if it uses one; raise `ModelError` if there is none yet."""
        _ = self.function

    @cached_property
    def schema(self) -> Schema:
        """The columns of the table, determined on first use.

        Raises `DefinitionError` for a statement or function that fails without rows, and for a key that is not a
        column; `ModelError` if its function uses a model that has no champion yet.
        """
        return self.find_schema(self)

    def samples(self, lookups: Mapping[str, Schema]) -> dict[str, pa.Table]:
        """Return an empty prepared table of each input. `lookups` are the columns of the other tables."""
        with connect() as con:
            register(con, {name: Scan(schema) for name, schema in lookups.items()})
            prepared = self.prepared()
            return {
                stream_input.name: self._sample(con, stream_input, prepared[stream_input.name])
                for stream_input in self.inputs
            }

    def _sample(self, con: duckdb.DuckDBPyConnection, stream_input: StreamInput, prepared: Prepared) -> pa.Table:
        con.register(stream_input.name, stream_input.empty_rows(con))
        select = as_stored(con, prepared.select) if self.operator is None else with_hash(prepared)
        return arrow(con, f"select * from ({select}\n) where false")

    @property
    def may_grow(self) -> bool:
        """Whether new columns are null in existing rows: true for a source, and for columns that `*` selects.

        False if the statement computes something from all columns, and for a function.
        """
        if isinstance(self.definition, Source):
            return self.definition.new_columns == "evolve"
        transform = statement_of(self.definition)
        if self.operator is not None or transform is None:
            return False
        return transform.tree.is_star and transform.tree.find(exp.Columns) is None

    @property
    def identity(self) -> StateIdentity | None:
        """The identity of its state. While it stays the same, a changed definition resumes from the last commit."""
        return None if self.operator is None else self.operator.identity

    @property
    def first_fingerprint(self) -> str:
        """What epochs of format 1 have instead of the identity: a hash of generated SQL and of names."""
        if self.operator is None:
            return fingerprint("no memory")
        ready = [(name, p.select, p.by) for name, p in sorted(self.prepared().items())]
        kinds = [(i.name, tuple(i.schema.select(i.schema.names).as_dict().items())) for i in self.inputs]
        free = self.operator.evolving if isinstance(self.operator, DeclaredState) else frozenset()
        state = sorted((name, select) for name, select in self.operator.state.items() if name not in free)
        return fingerprint(type(self.operator).__name__, ready, state, kinds)


class Planner:
    """Finds and plans the streams of a project. Each one is planned once."""

    def __init__(self, workspace: Workspace) -> None:
        """Create a planner; nothing is planned yet."""
        self.workspace = workspace
        definitions = workspace.project.graph.definitions
        self._has_streams = any(isinstance(d, SourceDefinition) and d.event_time is not None for d in definitions)
        self._plans: dict[str, StreamPlan | Refusal] = {}
        self._wider: dict[str, Mapping[str, str]] = {}
        """By source, the types that its columns need and its table may not have yet."""

    def is_streamed(self, name: str) -> bool:
        """Return whether a definition is a stream or a source that a stream reads."""
        definition = self.workspace.definition(name)
        if not self._has_streams:
            return False
        if isinstance(definition, SourceDefinition):
            return definition.event_time is not None
        if not isinstance(definition, Table) or not definition.may_be_streamed:
            return False
        driving = definition.transform.inputs[0]
        if definition.transform.language == "dataset" or not self.is_streamed(driving):
            return False
        return not isinstance(self._planned(definition), Refusal)

    def changes(self, name: str) -> bool:
        """Return whether rows of a streamed table are updated."""
        definition = self.workspace.definition(name)
        if not isinstance(definition, Table) or not self.is_streamed(name):
            return False
        return definition.merge is not None or self.plan(name).emits == "upsert"

    def forget(self, name: str) -> None:
        """Discard the plan of a stream and of those that it reads, because the columns of its inputs have changed."""
        for each in (name, *self.workspace.project.graph.upstream(name)):
            self._plans.pop(each, None)

    def widen(self, name: str, types: Mapping[str, str]) -> None:
        """Plan a source with wider types of these columns from now on."""
        self._wider[name] = {**self._wider.get(name, {}), **types}
        self.forget(name)

    def widened(self, name: str, schema: Schema) -> Schema:
        """Return the columns of a source with the wider types that they need."""
        return widened(schema, self._wider.get(name, {}))

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of all streams in topological order."""
        return tuple(name for name in self.workspace.table_names if self.is_streamed(name))

    @property
    def left_out(self) -> dict[str, str]:
        """The tables that read a stream but are not streams, with the reason."""
        return {
            name: refusal.reason
            for name, refusal in [*self._plans.items()]
            if isinstance(refusal, Refusal) and self.is_streamed(self._driving(name))
        }

    @property
    def untimed(self) -> dict[str, str]:
        """The tables with an event time whose first input is not streamed, with the reason."""
        graph = self.workspace.project.graph
        tables = [d for d in graph.all_of(Table) if d.streaming.event_time is not None]
        return {
            table.name: f"its first input {table.transform.inputs[0]!r} has no event time"
            for table in tables
            if not self.is_streamed(table.transform.inputs[0])
        }

    def _driving(self, name: str) -> str:
        definition = self.workspace.definition(name)
        return definition.transform.inputs[0] if isinstance(definition, Table) else name

    def plan(self, name: str) -> StreamPlan:
        """Return the plan of a table.

        Raises `RequestError` for a name that is not a table, and `DefinitionError` for a table that cannot be streamed.
        """
        definition = self.workspace.stored(name)
        if not isinstance(definition, Source | Table):
            raise RequestError(f"{name!r} is not a table that can be streamed")
        plan_or_refusal = self._planned(definition)
        if isinstance(plan_or_refusal, Refusal):
            raise DefinitionError(
                f"table {name!r} cannot be streamed: {plan_or_refusal}",
                do="compute it in batch, with `headwater run`",
                place=definition.place,
            )
        return plan_or_refusal

    def _planned(self, definition: Source | Table) -> StreamPlan | Refusal:
        planned = self._plans.get(definition.name)
        if planned is None:  # not read back: another stream may have discarded it
            planned = _of_source(self, definition) if isinstance(definition, Source) else _plan_table(self, definition)
            self._plans[definition.name] = planned
        return planned


def _of_source(planner: Planner, definition: Source) -> StreamPlan:
    if definition.event_time is None:
        raise DefinitionError(
            f"source {definition.name!r} cannot be streamed: it has no event time",
            do="set event_time= to the column with the time of the event",
            place=definition.place,
        )
    stream_input = input_of(planner, definition.name)
    columns = listed((*stream_input.schema.names, *PROVENANCE))
    statement = f"select {columns} from {quoted(definition.name)}"
    return _with_schema(planner, StreamPlan(definition, (stream_input,), statement=statement, reason="row by row"))


def input_of(planner: Planner, name: str) -> StreamInput:
    """Return a streamed input: a source with its log, or a table of the lake with its versions as the log."""
    definition = planner.workspace.definition(name)
    if isinstance(definition, Feed):
        return _external_input(planner, definition)
    if isinstance(definition, Source):
        return _external_input(planner, definition)
    if not isinstance(definition, Table):
        raise RequestError(f"{name!r} cannot be streamed")
    plan, declared = planner.plan(name), definition.streaming.event_time
    if declared is not None:
        require_event_time(declared, plan.schema, f"table {name!r}", definition.place)
    times = {stream_input.time.column for stream_input in plan.inputs if stream_input.time is not None}
    slack = timedelta() if declared is None else declared.lateness
    return TableInput(
        name,
        TableLog.of(planner.workspace, name),
        plan.schema,
        event_time(planner, name),
        follows=declared is None or declared.column in times,
        slack_us=slack // timedelta(microseconds=1),
    )


def lake_input(planner: Planner, name: str) -> StreamInput:
    """Return a streamed input that is read from the lake, where another stream writes it."""
    definition = planner.workspace.definition(name)
    if isinstance(definition, Source):
        version = planner.workspace.version(name, lenient=True) if definition.evolves else None
        schema = planner.plan(name).schema if version is None else version.schema
        return TableInput(name, TableLog.of(planner.workspace, name), schema, definition.event_time, follows=True)
    return input_of(planner, name)


def event_time(planner: Planner, name: str) -> EventTime | None:
    """Return the event time of a streamed definition: its own, or that of its input if it has the same column."""
    definition = planner.workspace.definition(name)
    if isinstance(definition, SourceDefinition):
        return definition.event_time
    if not isinstance(definition, Table):
        return None
    if definition.streaming.event_time is not None:
        return definition.streaming.event_time
    above = event_time(planner, definition.transform.inputs[0])
    names = planner.plan(name).schema.names
    return above if above is not None and above.column in names else None


def _external_input(planner: Planner, definition: Source | Feed) -> StreamInput:
    if definition.event_time is None:
        raise AssertionError(f"{definition.name!r} is not streamed")
    log = log_of(planner.workspace, definition)
    schema = planner.widened(definition.name, stream_contract(planner.workspace, definition, log))
    require_event_time(definition.event_time, schema, f"source {definition.name!r}", definition.place)
    return StreamInput(definition.name, log, schema, definition.event_time, new_types=definition.new_types)


def _plan_table(planner: Planner, definition: Table) -> StreamPlan | Refusal:
    """Return the plan of a table, or why it cannot be streamed."""
    transform = definition.transform
    driving = transform.inputs[0]
    obstacle = _input_obstacle(planner, transform.inputs)
    if obstacle is not None:
        return Refusal(obstacle)
    create_operator = getattr(transform, "operator", None)
    if create_operator is not None:
        inputs = tuple(_reading(planner, name) for name in transform.inputs)
        operator_inputs = _streamed(inputs)
        if isinstance(operator_inputs, Refusal):
            return operator_inputs
        return _with_operator(planner, definition, inputs, create_operator(operator_inputs, definition.place))
    stream_input = _reading(planner, driving)
    lookups = tuple(name for name in transform.inputs if name != driving)
    base = StreamPlan(definition, (stream_input,), lookups)
    if isinstance(transform, FunctionTransform):
        stream_plan = replace(
            base,
            find_function=partial(_function_of, planner, definition),
            reason="a function of blocks",
            statement=f"from {quoted(driving)}",
        )
        return _with_schema(planner, stream_plan)
    if not isinstance(transform, SqlTransform):
        return Refusal(f"a {definition.kind} needs all rows of its input")
    return _of_statement(planner, base, transform)


def _function_of(planner: Planner, definition: Table) -> FunctionTransform:
    return cast("FunctionTransform", planner.workspace.with_artifacts(definition).transform)


def _input_obstacle(planner: Planner, inputs: Sequence[str]) -> str | None:
    """Return why a stream cannot follow its inputs, or `None` if it can."""
    if not planner.is_streamed(inputs[0]):
        return f"its first input {inputs[0]!r} is not streamed"
    changing = next((name for name in inputs if planner.changes(name)), None)
    if changing is None:
        return None
    return f"{changing!r} emits updates; a stream can read only append-only tables"


def _of_statement(planner: Planner, base: StreamPlan, transform: SqlTransform) -> StreamPlan | Refusal:
    (stream_input,) = base.inputs
    joined = tuple(name for name in base.lookups if planner.is_streamed(name))
    how = choose_strategy(transform.tree)
    if not joined and how.strategy in {"blockwise", "broadcast"}:
        tree = (
            transform.tree
            if isinstance(stream_input, TableInput)
            else without_provenance(transform.tree, stream_input.name)
        )
        text, hidden = with_provenance(tree, stream_input.name, (*stream_input.schema.names, *PROVENANCE))
        stream_plan = replace(base, inputs=(_pruned(stream_input, transform),), statement=text, hidden=hidden)
        return _with_schema(planner, replace(stream_plan, reason=how.reason))
    inputs = (stream_input, *(_reading(planner, name) for name in joined))
    operator_inputs = _streamed(inputs)
    if isinstance(operator_inputs, Refusal):
        return operator_inputs
    streaming = base.definition.streaming if isinstance(base.definition, Table) else Streaming()
    lookups = tuple(name for name in base.lookups if name not in joined)
    lookup_schemas = {name: _scan(planner, name).schema for name in lookups}
    operator = operator_of(transform, operator_inputs, lookup_schemas, streaming)
    if isinstance(operator, Refusal):
        return operator
    return _with_operator(planner, base.definition, tuple(_pruned(i, transform) for i in inputs), operator, lookups)


def _streamed(inputs: Sequence[StreamInput]) -> dict[str, StreamedInput] | Refusal:
    """Return the inputs of an operator, or a refusal if one has no event time."""
    streamed = {i.name: StreamedInput(i.schema, i.time.column) for i in inputs if i.time is not None}
    missing = next((i.name for i in inputs if i.time is None), None)
    if missing is not None:
        return Refusal(f"{missing!r} has no event time: set event_time= to one of its columns")
    return streamed


def _pruned(stream_input: StreamInput, transform: SqlTransform) -> StreamInput:
    return replace(stream_input, columns=used_columns(transform.tree, stream_input.name, stream_input.schema))


def _reading(planner: Planner, name: str) -> StreamInput:
    """Return an input as a table reads it: a stored source is read from the lake."""
    return lake_input(planner, name)


def _with_operator(
    planner: Planner,
    definition: StoredDefinition,
    inputs: tuple[StreamInput, ...],
    operator: Operator,
    lookups: tuple[str, ...] = (),
) -> StreamPlan | Refusal:
    if operator.emits == "upsert" and not definition.key:
        return Refusal("it emits updates, which need a key: set key=")
    stream_plan = StreamPlan(definition, inputs, lookups, operator=operator, reason=type(operator).__name__)
    return _with_schema(planner, stream_plan)


def _with_schema(planner: Planner, stream_plan: StreamPlan) -> StreamPlan:
    """Return the plan with the function that determines its columns, and with whether their types may widen."""
    graph, definition = planner.workspace.project.graph, stream_plan.definition
    sources = [graph[name] for name in (definition.name, *graph.upstream(definition.name))]
    evolves = any(isinstance(each, Source) and each.new_types.has("evolve") for each in sources)
    return replace(
        stream_plan, find_schema=partial(_schema_of, planner), may_widen=evolves and definition.merge is None
    )


def _schema_of(planner: Planner, plan: StreamPlan) -> Schema:
    """Return the columns of a stream's rows, determined by running it without rows."""
    lookups = {name: _scan(planner, name) for name in plan.lookups}
    try:
        samples = plan.samples({name: scan.schema for name, scan in lookups.items()})
        rows = _rows_without_input(planner, plan, samples, lookups)
    except duckdb.Error as error:
        raise DefinitionError(
            f"table {plan.name!r} cannot be streamed", got=str(error).partition("\n")[0], place=plan.definition.place
        ) from error
    with connect() as con:
        con.register("_rows_made", rows)
        kept = [c for c in rows.column_names if c not in plan.hidden]
        schema = stored(schema_of(con, f"select {listed(kept)} from _rows_made"))
    _require_key(plan.definition, schema)
    return schema


def _rows_without_input(
    planner: Planner, plan: StreamPlan, samples: dict[str, pa.Table], lookups: Mapping[str, Scan]
) -> pa.Table:
    if plan.operator is not None:
        with open_shard(plan.operator, samples) as shard:
            con = shard.state.con
            blocks = {name: [rows] for name, rows in samples.items()}
            return arrow(con, as_stored(con, shard.advance(blocks, WatermarkAdvance(BEGINNING, BEGINNING))))
    if plan.function is None:
        return samples[plan.inputs[0].name]
    with connect(filesystem=planner.workspace.lake.storage.filesystem()) as con:
        given_tables = {name: con.sql(scan.query()).to_arrow_table() for name, scan in lookups.items()}
    return _call_without_rows(plan, {**samples, **given_tables})


def _require_key(definition: StoredDefinition, schema: Schema) -> None:
    """Raise `DefinitionError` if the key of a table contains a column that its rows do not have."""
    names = {name.lower() for name in schema.names}
    missing = next((name for name in definition.key if name.lower() not in names), None)
    if missing is not None:
        raise DefinitionError(
            f"table {definition.name!r} has no column {missing!r} of key=",
            do=did_you_mean(missing, schema.names),
            place=definition.place,
        )


def _call_without_rows(stream_plan: StreamPlan, empty_inputs: dict[str, pa.Table]) -> pa.Table:
    """Return the result of a function for inputs without rows; raise `DefinitionError` if it fails."""
    assert stream_plan.function is not None  # noqa: S101 - the caller has looked
    try:
        return call(stream_plan.function, empty_inputs, stream_plan.definition.place)
    except DefinitionError as error:
        raise DefinitionError(
            error.problem,
            got=error.got,
            do="return a table also for inputs without rows: a stream makes one such call to determine the columns",
            place=error.place,
        ) from error


def _scan(planner: Planner, name: str) -> Scan:
    return planner.workspace.require(name, is_streamed=planner.is_streamed(name)).scan()
