"""Definitions of sources, tables and artifacts: frozen descriptions; creating one runs nothing.

The name of a definition is the variable it is assigned to or the name of its function, its inputs are the parameters or
the names after FROM, and its description is the docstring. `pipeline.runner` executes definitions.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, get_args, overload, runtime_checkable

from pipeline.core.cursors import UNBOUNDED, Bound
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.event_time import EventTime, event_time_of, parse_duration
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.sources import PROVENANCE, Evolvable, NewColumns, OverTables, Reader, Timed

if TYPE_CHECKING:
    import pyarrow as pa


Layer = Literal["bronze", "silver", "gold"]
Unreadable = Literal["fail", "quarantine"]
"""The action for a source split that fails to be read twice: fail the run, or quarantine the split by its byte range."""
LAYERS: tuple[Layer, ...] = ("bronze", "silver", "gold")
UNIQUE, NOT_NULL, SEQUENCED = "key_is_unique", "key_is_not_null", "sequence_is_not_null"
"""The expectations implied by a key; merged tables have `SEQUENCED` instead of `UNIQUE`."""
MOST_EXPECTATIONS = 60
"""The maximum number of expectations that a table may declare."""


class Action(StrEnum):
    """What happens to a row or to the run if an expectation is violated. A condition that is null is violated."""

    WARN = "warn"
    QUARANTINE = "quarantine"
    DROP = "drop"
    FAIL = "fail"


@dataclass(frozen=True)
class Expectation:
    """A named SQL condition that every row of a table should satisfy."""

    name: str
    condition: str
    action: Action


@dataclass(frozen=True)
class Chart:
    """The chart of a mart in the report: `y` over `x`, with one line or bar group per value of `by`."""

    kind: Literal["line", "bar"]
    x: str
    y: str
    by: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class Merge:
    """How rows of one key are merged: the row with the greatest `sequence_by` is kept, and a delete removes the key."""

    sequence_by: str
    apply_as_deletes: str | None = None
    """A SQL condition that is true for rows that delete their key."""


Emit = Literal["close", "change"]
"""When a stream emits the row of a group: once, when its window closes, or at every change, replacing the previous row."""


@dataclass(frozen=True)
class Streaming:
    """The streaming options of a table. They have no effect in a batch run."""

    emit: Emit | None = None
    """By default, windowed groups are emitted when the window closes, and other groups at every change."""
    ttl: timedelta | None = None
    """How long the state of an inactive key is kept, in event time."""
    event_time: EventTime | None = None
    """The event time of the table's rows, for tables that stream from it."""


class Transform(Protocol):
    """A pure function from input tables to one output table; callable with its inputs by name."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the input tables, the driving input first."""

    @property
    def fingerprint(self) -> str:
        """A hash of the computation; layout and comments are ignored."""

    @property
    def language(self) -> str:
        """`sql`, or the type of its tables: `arrow`, `polars`, `pandas` or `dataset`."""

    def __call__(self, *args: Any, **tables: Any) -> Any:
        """Run the transform on in-memory tables, for example in a unit test."""


@runtime_checkable
class LogTransform(Protocol):
    """A transform that processes rows in log order, using the position of each row in the log."""

    def over_log(self, tables: Mapping[str, pa.Table], contracts: Mapping[str, Sequence[str]]) -> pa.Table:
        """Return the result for all rows of the inputs; an input that has a contract is restricted to its columns."""


@dataclass(frozen=True, kw_only=True)
class Definition(ABC):
    """The base class of definitions. `name` is empty until the project is loaded."""

    place: Place
    name: str = ""
    description: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the definitions that this definition reads."""
        return ()

    @property
    @abstractmethod
    def kind(self) -> str:
        """The kind shown by `headwater ls`."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that determines the rows. If it changes, the definition is recomputed."""

    @property
    def selected_with(self) -> str:
        """The name that also selects this definition; a sink is selected with its table."""
        return self.name

    @property
    def computed_by(self) -> Transform | None:
        """The transform that computes its rows; `None` if they are read, and for what is not a table."""
        return None

    @property
    def is_dataset_function(self) -> bool:
        """Whether it is computed by a function of Ray datasets."""
        return self.computed_by is not None and self.computed_by.language == "dataset"

    def named(self, name: str) -> Self:
        """Return the definition with this name, or unchanged if it already has a name."""
        return self if self.name else replace(self, name=name)


@dataclass(frozen=True, kw_only=True)
class StoredDefinition(Definition):
    """A definition that is stored as a table in the lake."""

    layer: Layer
    key: tuple[str, ...] = ()
    partition_by: tuple[str, ...] = ()
    expect: tuple[Expectation, ...] = ()
    merge: Merge | None = None
    """How rows of one key are merged. Without it, the first row of a key is kept."""

    @property
    def is_in_warehouse(self) -> bool:
        """Whether its table is also loaded into the warehouse: that of the last layer is."""
        return self.layer == LAYERS[-1]

    def _parts(self) -> tuple[object, ...]:
        checks = tuple((e.name, e.condition, e.action.value) for e in self.expect)
        return (self.layer, self.key, self.partition_by, checks)


@dataclass(frozen=True, kw_only=True)
class SourceDefinition(Definition):
    """What stored sources and feeds have in common: a reader, and how its rows are read."""

    reader: Reader | OverTables
    schema: Schema | None = None
    """The contract of the rows; `None` if it is inferred, and empty if it is that of the tables that are read."""
    new_columns: NewColumns | None = None
    """The handling of columns that are not in the contract; `None` uses the reader's default."""
    unreadable: Unreadable = "fail"
    event_time: EventTime | None = None
    bound: Bound = UNBOUNDED
    """Limits on how much one run reads."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tables that the reader reads; empty for a reader of an external system."""
        return self.reader.inputs if isinstance(self.reader, OverTables) else ()


@dataclass(frozen=True, kw_only=True)
class Source(SourceDefinition, StoredDefinition):
    """A stored source: a reader and the contract of its rows."""

    @property
    def kind(self) -> str:
        """`source`."""
        return "source"

    @property
    def fingerprint(self) -> str:
        """Changes with the reader's options, the contract and the expectations."""
        columns = () if self.schema is None else tuple(self.schema.as_dict().items())
        return fingerprint("source", self.reader.fingerprint, columns, *self._parts(), *_policy(self.new_columns))


def _policy(new_columns: NewColumns | None) -> tuple[NewColumns, ...]:
    """Return the parts of the policy that affect the stored rows; with any other policy, such a run would have failed."""
    return ("set aside",) if new_columns == "set aside" else ()


@dataclass(frozen=True, kw_only=True)
class Feed(SourceDefinition):
    """A source that is not stored: the table that reads it reads the external system directly, each split once."""

    schema: Schema = field()

    @property
    def kind(self) -> str:
        """`feed`."""
        return "feed"

    @property
    def fingerprint(self) -> str:
        """Changes with the reader's options and the contract."""
        columns = tuple(self.schema.as_dict().items())
        return fingerprint("feed", self.reader.fingerprint, columns, *_policy(self.new_columns))


@dataclass(frozen=True, kw_only=True)
class Table(StoredDefinition):
    """A table computed from other tables. Calling it runs its transform on in-memory tables."""

    transform: Transform
    role: str = "table"
    chart: Chart | None = None
    remembers: bool = False
    """Whether the transform also reads the previous version of this table, as a slowly changing dimension does."""
    streaming: Streaming = field(default_factory=Streaming)
    deadline: timedelta | None = None
    """The time within which it should be computed on a cluster, which adds nodes for it; `None`: as soon as possible."""

    @property
    def computed_by(self) -> Transform:
        """Its transform."""
        return self.transform

    @property
    def kind(self) -> str:
        """`table`, `dimension`, `fact`, `mart` or `features`."""
        return self.role

    @property
    def inputs(self) -> tuple[str, ...]:
        """The transform's inputs, excluding the table itself if it reads its previous version."""
        return tuple(name for name in self.transform.inputs if name != self.name or not self.remembers)

    @property
    def fingerprint(self) -> str:
        """Changes with the transform, the key, the merge options, the partitioning and the expectations."""
        merge = () if self.merge is None else (self.merge.sequence_by, self.merge.apply_as_deletes)
        return fingerprint(self.role, self.transform.fingerprint, self.remembers, *self._parts(), *merge)

    def __call__(self, *args: Any, **tables: Any) -> Any:
        """Run the transform on in-memory tables."""
        return self.transform(*args, **tables)


def layer_of(definition: Definition) -> str:
    """Return the layer of a table, and an empty text for what is not a table."""
    return definition.layer if isinstance(definition, StoredDefinition) else ""


@dataclass(frozen=True)
class Verdict:
    """The result of building an artifact: whether it was accepted, its metrics, and where it is stored."""

    accepted: bool
    reason: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    uri: str = ""
    version: str = ""
    rows: int = 0


class BuildContext(Protocol):
    """The inputs of an artifact, and where it is stored."""

    @property
    def store(self) -> str:
        """The URI of the model store."""

    @property
    def run_id(self) -> str:
        """The id of the run that builds it."""

    def definition(self, name: str) -> Definition:
        """Return the definition of an input."""

    def table(self, name: str) -> pa.Table:
        """Return all rows of an input."""

    def version(self, name: str) -> int:
        """Return a number that identifies the rows that `table` returns; it differs if the rows differ."""


@dataclass(frozen=True, kw_only=True)
class Artifact(Definition):
    """A definition whose result is not a table, for example a model."""

    @abstractmethod
    def verdict(self, context: BuildContext) -> Verdict | None:
        """Return the existing verdict for these inputs and this definition, or `None` if there is none."""

    @abstractmethod
    def build(self, context: BuildContext) -> Verdict:
        """Build the artifact, evaluate it, store it if it is accepted, and return the verdict."""


def names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return one name or a sequence of names as a tuple; empty for `None`."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def checks(expect: Sequence[Expectation], place: Place) -> tuple[Expectation, ...]:
    """Return the expectations as a tuple.

    Raises `DefinitionError` for more than 60 expectations, duplicate names, and the reserved names of key expectations.
    """
    if len(expect) > MOST_EXPECTATIONS:
        raise DefinitionError(
            f"a table has at most {MOST_EXPECTATIONS} expectations",
            got=str(len(expect)),
            do="combine conditions with `and`",
            place=place,
        )
    seen = {UNIQUE, NOT_NULL, SEQUENCED}
    for expectation in expect:
        if expectation.name in seen:
            is_reserved = expectation.name in {UNIQUE, NOT_NULL, SEQUENCED}
            problem = "has a name that is reserved for keys" if is_reserved else "is defined twice"
            raise DefinitionError(f"expectation {expectation.name!r} {problem}", do="choose another name", place=place)
        seen.add(expectation.name)
    return tuple(expect)


def merge_of(key: tuple[str, ...], sequence_by: str | None, apply_as_deletes: str | None, place: Place) -> Merge | None:
    """Return the merge options of a table, or `None` if it is not merged.

    Raises `DefinitionError` if a required option is missing, or if the sequence is part of the key.
    """
    if sequence_by is None and apply_as_deletes is None:
        return None
    if sequence_by is None:
        raise DefinitionError(
            "apply_as_deletes= requires sequence_by=",
            got=repr(apply_as_deletes),
            do="set sequence_by= to the column that orders the rows of a key",
            place=place,
        )
    if not key:
        raise DefinitionError(
            "a table with sequence_by= requires a key", got=f"sequence_by={sequence_by!r}", do="set key=", place=place
        )
    if sequence_by in key:
        raise DefinitionError(
            "sequence_by= must not be part of the key",
            got=repr(sequence_by),
            do="remove it from key=, or choose another sequence_by=",
            place=place,
        )
    return Merge(sequence_by, apply_as_deletes)


def streaming_of(
    emit: Emit | None,
    ttl: str | timedelta | None,
    event_time: str | None,
    lateness: str | timedelta | None,
    place: Place,
) -> Streaming:
    """Return the streaming options of a table; raise `DefinitionError` for invalid values."""
    if emit not in {None, "close", "change"}:
        raise DefinitionError("emit= must be 'close' or 'change'", got=repr(emit), place=place)
    kept = None if ttl is None else parse_duration(ttl, "ttl", place)
    time = event_time_of(event_time, lateness, None, None, place)
    if time is not None and time.made_by is not None:
        raise DefinitionError(
            "event_time= of a table must be one of its columns",
            got=repr(event_time),
            do=f"select {time} as {time.column} in the table, and set event_time={time.column!r}",
            place=place,
        )
    return Streaming(emit, kept, time)


def deadline_of(deadline: str | timedelta | None, place: Place) -> timedelta | None:
    """Return the deadline of a table; raise `DefinitionError` if it is not a positive duration."""
    if deadline is None:
        return None
    duration = parse_duration(deadline, "deadline", place)
    if not duration:
        raise DefinitionError("deadline= must be positive", got=repr(deadline), place=place)
    return duration


def caller() -> Place:
    """Return the place of the nearest caller outside Headwater, which is where a definition is written."""
    ours = tuple(f"{Path(__file__).parents[2] / top}{os.sep}" for top in ("pipeline", "ml"))
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to a caller's line
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)


def _bound(most_rows: int | None, most_bytes: int | None, place: Place) -> Bound:
    try:
        return Bound(most_rows, most_bytes)
    except ValueError as error:
        got = f"most_rows={most_rows}, most_bytes={most_bytes}"
        raise DefinitionError("most_rows= and most_bytes= must be at least 1", got=got, place=place) from error


def _contract(schema: Mapping[str, str] | None, time: EventTime | None, place: Place) -> Schema | None:
    """Return the columns of a source's rows; a number that `event_time=` converts is a timestamp there."""
    contract = None if schema is None else Schema.of(schema)
    taken = next((name for name in schema or () if name.lower() in PROVENANCE), None)
    if taken is not None:
        raise DefinitionError(
            f"the column name {taken!r} is reserved for the origin of a row",
            do="remove it from schema=, or rename it in the data",
            place=place,
        )
    return contract if contract is None or time is None else time.in_rows(contract, place)


def _evolving(
    reader: Reader | OverTables, new_columns: NewColumns | None, *, stored: bool, place: Place
) -> Reader | OverTables:
    if new_columns is None:
        return reader
    if new_columns not in get_args(NewColumns):
        known = did_you_mean(new_columns, get_args(NewColumns))
        raise DefinitionError("unknown value of new_columns=", got=repr(new_columns), do=known, place=place)
    if new_columns == "add" and not stored:
        raise DefinitionError(
            "new_columns='add' requires a stored source",
            do="remove stored=False, or set new_columns='set aside'",
            place=place,
        )
    if not isinstance(reader, Evolvable):
        raise DefinitionError(
            "new_columns= is not supported by this source, because its columns cannot change",
            do="remove new_columns=",
            place=place,
        )
    return reader.evolving(new_columns)


@overload
def source(
    reader: Reader | OverTables,
    *,
    schema: Mapping[str, str] | None = None,
    key: str | Sequence[str] | None = None,
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    description: str = "",
    new_columns: NewColumns | None = None,
    unreadable: Unreadable = "fail",
    event_time: str | None = None,
    lateness: str | timedelta | None = None,
    idle_after: str | timedelta | None = None,
    ahead: str | timedelta | None = None,
    most_rows: int | None = None,
    most_bytes: int | None = None,
    stored: Literal[True] = True,
) -> Source: ...


@overload
def source(
    reader: Reader | OverTables,
    *,
    schema: Mapping[str, str] | None = None,
    description: str = "",
    new_columns: NewColumns | None = None,
    unreadable: Unreadable = "fail",
    event_time: str | None = None,
    lateness: str | timedelta | None = None,
    idle_after: str | timedelta | None = None,
    ahead: str | timedelta | None = None,
    most_rows: int | None = None,
    most_bytes: int | None = None,
    stored: Literal[False],
) -> Feed: ...


def source(
    reader: Reader | OverTables,
    *,
    schema: Mapping[str, str] | None = None,
    key: str | Sequence[str] | None = None,
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    description: str = "",
    new_columns: NewColumns | None = None,
    unreadable: Unreadable = "fail",
    event_time: str | None = None,
    lateness: str | timedelta | None = None,
    idle_after: str | timedelta | None = None,
    ahead: str | timedelta | None = None,
    most_rows: int | None = None,
    most_bytes: int | None = None,
    stored: bool = True,
) -> Source | Feed:
    """Define a source. Its rows are stored in a bronze table with the name of the variable it is assigned to.

    `schema` maps column names to DuckDB types. Without it, the types are inferred from the first data and enforced from
    then on. Rows that do not match are quarantined with their position. Each committed row has the columns `_source`,
    `_position` and `_ingested_at`.

    A file, or a part of a large file, that cannot be read fails the run. With `unreadable="quarantine"`, it is retried
    once and then quarantined as one row that contains its byte range; its content counts as consumed. On Ray, a part that
    crashes its workers is divided first, and only the smallest part that crashes them is quarantined in this way.

    With `stored=False` there is no bronze table. A table whose first input is this source reads the files directly, each
    once, in the pass that computes its rows, and rows that do not match are quarantined with that table. `schema` is
    then required, except for a replay, of which only the columns that the table uses are read. A key, partitions and
    expectations belong to the table that reads the source; setting them here raises `DefinitionError`.

    `new_columns` specifies what happens to a column that is in the data but not in the contract: `"refuse"` (the default
    for files) fails the run, `"set aside"` quarantines rows with a value in it, and `"add"` adds it to the table. With
    `"add"`, `schema` may omit columns, and columns that are missing in the data are null.

    A streamed source requires an `event_time`: the column with the time at which a row happened. If it is a number since
    1970, write `'epoch_ms(at)'` (milliseconds), `'to_timestamp(at)'` (seconds) or `'make_timestamp(at)'` (microseconds);
    the column is then a timestamp in the rows of the source. Rows may be up to `lateness` behind the latest row of their
    partition (`'10 minutes'`; none by default). Every partition holds back the watermark until it delivers. With
    `idle_after`, a partition that is silent for that long no longer does, and rows that it delivers later may be late.
    Rows more than `ahead` (default: 1 hour) in the future are quarantined.
    """
    place = caller()
    if not isinstance(stored, bool):
        raise DefinitionError("stored= must be True or False", got=repr(stored), place=place)
    time = event_time_of(event_time, lateness, idle_after, ahead, place)
    contract, bound = _contract(schema, time, place), _bound(most_rows, most_bytes, place)
    reader = reader.timed(time) if time is not None and isinstance(reader, Timed) else reader
    reader = _evolving(reader, new_columns, stored=stored, place=place)
    if not stored:
        if contract is None and isinstance(reader, OverTables):
            contract = Schema(())  # the schema of the tables that the reader reads
        if contract is None or key or partition_by or expect:
            raise DefinitionError(
                "a source with stored=False requires schema=, and cannot have key=, partition_by= or expect=",
                do="set key=, partition_by= and expect= on the table that reads it",
                place=place,
            )
        return Feed(
            place=place,
            description=description,
            reader=reader,
            schema=contract,
            new_columns=new_columns,
            unreadable=unreadable,
            event_time=time,
            bound=bound,
        )
    return Source(
        place=place,
        description=description,
        layer="bronze",
        key=names(key),
        partition_by=names(partition_by),
        expect=checks(expect, place),
        reader=reader,
        schema=contract,
        new_columns=new_columns,
        unreadable=unreadable,
        event_time=time,
        bound=bound,
    )
