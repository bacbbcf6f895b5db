"""What a project is made of: sources, tables and artifacts, each a frozen description that runs nothing.

A definition's name is the name it is assigned to (or its function's), its inputs are its parameters (or the
names after FROM), its docstring is its description. The runner in `pipeline.runner` gives them their data.
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
from pipeline.core.sources import Evolvable, NewColumns, OverTables, Reader, Timed

if TYPE_CHECKING:
    import pyarrow as pa


Layer = Literal["bronze", "silver", "gold"]
Unreadable = Literal["fail", "quarantine"]
"""What becomes of a part of a source that cannot be read, twice: the run fails, or the part is set aside by its bytes."""
LAYERS: tuple[Layer, ...] = ("bronze", "silver", "gold")
UNIQUE, NOT_NULL, SEQUENCED = "key_is_unique", "key_is_not_null", "sequence_is_not_null"
"""The expectations that a key brings, and what a merged table has in place of the first."""
MOST_EXPECTATIONS = 60
"""The most that a table may have of its own."""


class Action(StrEnum):
    """What happens to a row, or to the run, when an expectation does not hold. Null counts as not holding."""

    WARN = "warn"
    QUARANTINE = "quarantine"
    DROP = "drop"
    FAIL = "fail"


@dataclass(frozen=True)
class Expectation:
    """A named SQL boolean that every row of a table should make true."""

    name: str
    condition: str
    action: Action


@dataclass(frozen=True)
class Chart:
    """How a mart asks to be drawn in the report: `y` over `x`, one line or bar group per value of `by`."""

    kind: Literal["line", "bar"]
    x: str
    y: str
    by: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class Merge:
    """Of the rows of one key the one with the greatest `sequence_by` stays; a row that is a delete removes its key."""

    sequence_by: str
    apply_as_deletes: str | None = None
    """A SQL condition on a row, true for one that says its key is gone."""


Emit = Literal["close", "change"]
"""When a group's row comes out of a stream: once, when its window is over, or at every change, in place of the last."""


@dataclass(frozen=True)
class Streaming:
    """How a table is streamed; none of it matters where it is computed from all of its input at once."""

    emit: Emit | None = None
    """Without it, groups of a window come out when it closes and other groups at every change."""
    ttl: timedelta | None = None
    """How long, in event time, something is remembered of a key for which nothing comes."""
    event_time: EventTime | None = None
    """The event time of the table's own rows, for a table that streams from it."""


class Transform(Protocol):
    """A pure step from input tables to one output table; callable with its inputs by name."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the tables it reads, the driving one first."""

    @property
    def fingerprint(self) -> str:
        """A hash of what it does; layout and comments do not count."""

    @property
    def language(self) -> str:
        """What it is written on: `sql`, `arrow`, `polars`, `pandas` or `dataset`."""

    def __call__(self, *args: Any, **tables: Any) -> Any:
        """Run it on in-memory tables, as a unit test does."""


@runtime_checkable
class LogTransform(Protocol):
    """A transform that takes rows in the order of a log, whose place is beside the columns of the contract."""

    def over_log(self, tables: Mapping[str, pa.Table], contracts: Mapping[str, Sequence[str]]) -> pa.Table:
        """Return the table for all rows of its inputs; of those with a contract it looks at these columns alone."""


@dataclass(frozen=True, kw_only=True)
class Definition(ABC):
    """What every definition has. `name` is empty until the project that holds it is loaded."""

    place: Place
    name: str = ""
    description: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the definitions it reads."""
        return ()

    @property
    @abstractmethod
    def kind(self) -> str:
        """The word `headwater ls` shows for it."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that decides its rows; when it changes, the definition is recomputed."""

    @property
    def selected_with(self) -> str:
        """The name with which it is chosen too when a run is given names: a sink comes with its table."""
        return self.name

    def named(self, name: str) -> Self:
        """Return the definition with its name, unless it has one."""
        return self if self.name else replace(self, name=name)


@dataclass(frozen=True, kw_only=True)
class StoredDefinition(Definition):
    """A definition whose product is a table in the lake."""

    layer: Layer
    key: tuple[str, ...] = ()
    partition_by: tuple[str, ...] = ()
    expect: tuple[Expectation, ...] = ()

    def _parts(self) -> tuple[object, ...]:
        checks = tuple((e.name, e.condition, e.action.value) for e in self.expect)
        return (self.layer, self.key, self.partition_by, checks)


@dataclass(frozen=True, kw_only=True)
class Source(StoredDefinition):
    """Where data enters: a reader, and the contract its rows are held to."""

    reader: Reader | OverTables
    schema: Schema | None = None
    new_columns: NewColumns | None = None
    """What happens to columns that the contract does not have; `None`: what the reader does by itself."""
    unreadable: Unreadable = "fail"
    event_time: EventTime | None = None
    bound: Bound = UNBOUNDED
    """The most that one run reads."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """None, or the tables that it reads."""
        return self.reader.inputs if isinstance(self.reader, OverTables) else ()

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
    """Return what of a policy changes rows that were read: without one of them a run would have failed."""
    return ("set aside",) if new_columns == "set aside" else ()


@dataclass(frozen=True, kw_only=True)
class Feed(Definition):
    """A source that is not stored: the table that reads it reads the world itself, each piece once."""

    reader: Reader | OverTables
    schema: Schema
    """Empty where it is that of the tables that are read."""
    new_columns: NewColumns | None = None
    """What happens to columns that the contract does not have; `None`: what the reader does by itself."""
    unreadable: Unreadable = "fail"
    event_time: EventTime | None = None
    bound: Bound = UNBOUNDED
    """The most that one run reads."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """None, or the tables that it reads."""
        return self.reader.inputs if isinstance(self.reader, OverTables) else ()

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
    """A table made from other tables. Calling it runs its transform on in-memory tables."""

    transform: Transform
    role: str = "table"
    chart: Chart | None = None
    remembers: bool = False
    """Whether the transform also reads the table's own last version, as a slowly changing dimension does."""
    merge: Merge | None = None
    """How rows of one key are merged; without it the first one of a key stays."""
    streaming: Streaming = field(default_factory=Streaming)

    @property
    def kind(self) -> str:
        """`table`, `dimension`, `fact`, `mart` or `features`."""
        return self.role

    @property
    def inputs(self) -> tuple[str, ...]:
        """The transform's inputs, without the table itself where it remembers its last version."""
        return tuple(name for name in self.transform.inputs if name != self.name or not self.remembers)

    @property
    def fingerprint(self) -> str:
        """Changes with the transform, the key, how it is merged, the partitioning and the expectations."""
        merge = () if self.merge is None else (self.merge.sequence_by, self.merge.apply_as_deletes)
        return fingerprint(self.role, self.transform.fingerprint, self.remembers, *self._parts(), *merge)

    def __call__(self, *args: Any, **tables: Any) -> Any:
        """Run the transform as what it is: a function of tables."""
        return self.transform(*args, **tables)


@dataclass(frozen=True)
class Verdict:
    """What became of an artifact: accepted or refused, the figures, and where it is kept."""

    accepted: bool
    reason: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    uri: str = ""
    version: str = ""
    rows: int = 0


class BuildContext(Protocol):
    """What an artifact is built on: its inputs and where its product is kept."""

    @property
    def store(self) -> str:
        """The URI of the model store."""

    @property
    def run_id(self) -> str:
        """The run that builds it."""

    def definition(self, name: str) -> Definition:
        """Return the definition of an input."""

    def table(self, name: str) -> pa.Table:
        """Return all rows of an input."""

    def version(self, name: str) -> int:
        """Return a number that stands for the rows that `table` returns: other rows, another number."""


@dataclass(frozen=True, kw_only=True)
class Artifact(Definition):
    """A definition whose product is not a table, for example a model."""

    @abstractmethod
    def verdict(self, bench: BuildContext) -> Verdict | None:
        """Return the verdict on just these inputs and this definition, or `None` when there is none yet."""

    @abstractmethod
    def build(self, bench: BuildContext) -> Verdict:
        """Make the product, judge it, keep it if it is good enough, and say so."""


def names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return a name, or a sequence of names, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def checks(expect: Sequence[Expectation], place: Place) -> tuple[Expectation, ...]:
    """Return the expectations as a tuple.

    Raises `DefinitionError` for more than 60, for two of one name, and for the name of one that a key brings.
    """
    if len(expect) > MOST_EXPECTATIONS:
        raise DefinitionError(
            f"a table has at most {MOST_EXPECTATIONS} expectations",
            got=str(len(expect)),
            do="join some with `and`",
            place=place,
        )
    seen = {UNIQUE, NOT_NULL, SEQUENCED}
    for expectation in expect:
        if expectation.name in seen:
            ours = expectation.name in {UNIQUE, NOT_NULL, SEQUENCED}
            taken = "is what a key brings" if ours else "is given twice"
            raise DefinitionError(f"expectation {expectation.name!r} {taken}", do="give each its own name", place=place)
        seen.add(expectation.name)
    return tuple(expect)


def merge_of(key: tuple[str, ...], sequence_by: str | None, apply_as_deletes: str | None, place: Place) -> Merge | None:
    """Return how a table is merged, or `None` when it is not; raise `DefinitionError` for words that lack others."""
    if sequence_by is None and apply_as_deletes is None:
        return None
    if sequence_by is None:
        raise DefinitionError(
            "apply_as_deletes= needs an order of events",
            got=repr(apply_as_deletes),
            do="give sequence_by= with the column that says which row of a key comes last",
            place=place,
        )
    if not key:
        raise DefinitionError(
            "a merged table needs a key", got=f"sequence_by={sequence_by!r}", do="give key=", place=place
        )
    if sequence_by in key:
        raise DefinitionError(
            "the sequence is part of the key, so no row would come after another",
            got=repr(sequence_by),
            do="take it out of key=, or give another sequence_by=",
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
    """Return how a table is streamed; raise `DefinitionError` for words that cannot be read."""
    if emit not in {None, "close", "change"}:
        raise DefinitionError("emit= is 'close' or 'change'", got=repr(emit), place=place)
    kept = None if ttl is None else parse_duration(ttl, "ttl", place)
    time = event_time_of(event_time, lateness, None, None, place)
    if time is not None and time.made_by is not None:
        raise DefinitionError(
            "event_time= of a table is one of its columns",
            got=repr(event_time),
            do=f"write {time} as {time.column} where the table is made, and event_time={time.column!r}",
            place=place,
        )
    return Streaming(emit, kept, time)


def caller() -> Place:
    """Return the place of the nearest call from outside Headwater: where a definition is written."""
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
        raise DefinitionError("the bound of a source must be at least 1", got=got, place=place) from error


def _evolving(
    reader: Reader | OverTables, new_columns: NewColumns | None, *, stored: bool, place: Place
) -> Reader | OverTables:
    if new_columns is None:
        return reader
    if new_columns not in get_args(NewColumns):
        known = did_you_mean(new_columns, get_args(NewColumns))
        raise DefinitionError("new_columns= has no such value", got=repr(new_columns), do=known, place=place)
    if new_columns == "add" and not stored:
        raise DefinitionError(
            "new_columns='add' needs a table that can get the columns, and this source is not stored",
            do="remove stored=False, or give new_columns='set aside'",
            place=place,
        )
    if not isinstance(reader, Evolvable):
        raise DefinitionError(
            "new_columns= is for sources whose columns may change, and this one has those that it is given",
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
    """Define where data enters; its rows land in a bronze table of the name it is assigned to.

    `schema` maps column names to DuckDB types; without it the types are read from the first data and held to
    from then on. Rows that do not fit go to quarantine with their position. Each committed row carries
    `_source`, `_position` and `_ingested_at`.

    A file, or a part of a large one, that cannot be read at all ends the run, unless `unreadable="quarantine"`: then it
    is tried once more, and set aside as one row that names its bytes; its content counts as consumed.

    With `stored=False` there is no bronze table: a table whose first input it is reads the files themselves, each
    once, in the pass that makes its rows, and rows that do not fit go to that table's quarantine. `schema` is needed
    then, but for a replay, of which only the columns are looked at that the table names; a key, partitions and
    expectations belong to the table that reads it, else this raises `DefinitionError`.

    `new_columns` says what happens to a column that the data has and the contract has not: `"refuse"` (the default for
    files) fails the run, `"set aside"` quarantines rows with a value in it, `"add"` gives it to the table. With `"add"`,
    `schema` may leave columns out, and those that data does not have are null.

    A source that is streamed needs an `event_time`: the column that says when a row happened. Where it is a number since
    1970, write `'epoch_ms(at)'` (milliseconds), `'to_timestamp(at)'` (seconds) or `'make_timestamp(at)'` (microseconds); in
    the source's rows the column is that time. Rows may come up to `lateness` after the latest of their partition
    (`'10 minutes'`; none by default). Every partition holds event time back until it delivers, unless `idle_after` is
    given: one that is silent for so long then does not, and what it delivers after that may be late. A row from more than
    `ahead` (1 hour) after now is set aside.
    """
    place = caller()
    if not isinstance(stored, bool):
        raise DefinitionError("stored= is True or False", got=repr(stored), place=place)
    time = event_time_of(event_time, lateness, idle_after, ahead, place)
    contract = None if schema is None else Schema.of(schema)
    if contract is not None and time is not None:
        contract = time.in_rows(contract, place)
    bound = _bound(most_rows, most_bytes, place)
    if time is not None and isinstance(reader, Timed):
        reader = reader.timed(time)
    reader = _evolving(reader, new_columns, stored=stored, place=place)
    if not stored:
        if contract is None and isinstance(reader, OverTables):
            contract = Schema(())  # that of the tables
        if contract is None or key or partition_by or expect:
            problem = "a source that is not stored has a schema, and no key, partitions or expectations of its own"
            raise DefinitionError(problem, do="give those to the table that reads it", place=place)
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
