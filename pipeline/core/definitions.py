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
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

from pipeline.core.cursors import UNBOUNDED, Bound
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.event_time import EventTime, event_time_of, parse_duration
from pipeline.core.fingerprint import fingerprint
from pipeline.core.merge_options import Merge
from pipeline.core.schema import Schema
from pipeline.core.sources import NewColumns, OverTables, Reader
from pipeline.core.type_policy import DEFAULT_TYPE_POLICY, TypePolicy

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.kernel.scan import Scan
    from pipeline.lake import Storage


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
    place: Place | None = field(default=None, compare=False, repr=False)
    """Where it is written, if it is not implied by another option."""


@dataclass(frozen=True)
class Chart:
    """The chart of a mart in the report: `y` over `x`, with one line or bar group per value of `by`."""

    kind: Literal["line", "bar"]
    x: str
    y: str
    by: str | None = None
    title: str | None = None


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
class ChecksInputs(Protocol):
    """A transform, or a definition without one, that needs certain definitions as its inputs."""

    def check_inputs(self, inputs: Mapping[str, Definition], place: Place) -> None:
        """Raise `DefinitionError` if the definitions of the inputs do not fit."""


@runtime_checkable
class DependsOnDefinitions(Protocol):
    """A transform that is derived from the definitions of its inputs."""

    def over(self, inputs: Mapping[str, Definition]) -> Transform:
        """Return the transform for these definitions; raise `DefinitionError` if they do not fit."""


@runtime_checkable
class UsesArtifact(Protocol):
    """A transform that uses a registered artifact, for example the champion of a model."""

    def loaded(self, store: str) -> Transform:
        """Return the transform with the artifact of a store at a URI; raise `ModelError` if there is none yet."""


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
    def artifacts(self) -> tuple[str, ...]:
        """The artifacts that it uses, which are built before it."""
        return ()

    @property
    def selected_with(self) -> str:
        """The name that also selects this definition; a sink is selected with its table."""
        return self.name

    @property
    def companions(self) -> tuple[Definition, ...]:
        """The definitions that belong to it and are named after it; they are part of the project too."""
        return ()

    @property
    def responsible(self) -> str:
        """Who is responsible for it; empty if that is not declared."""
        return ""

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
    """The texts of partition fields, see `pipeline.core.partition_fields`; they determine files, not rows."""
    expect: tuple[Expectation, ...] = ()
    merge: Merge | None = None
    """How rows of one key are merged. Without it, the first row of a key is kept."""
    partitioned_before: tuple[str, ...] = ()
    """For the fingerprint of a version that was written when the partition columns were part of it: these columns."""

    @property
    def is_in_warehouse(self) -> bool:
        """Whether its table is also loaded into the warehouse: that of the last layer is."""
        return self.layer == LAYERS[-1]

    def _parts(self) -> tuple[object, ...]:
        checks = tuple((e.name, e.condition, e.action.value) for e in self.expect)
        return (self.layer, self.key, self.partitioned_before, checks)


@dataclass(frozen=True, kw_only=True)
class SourceDefinition(Definition):
    """What stored sources and feeds have in common: a reader, and how its rows are read."""

    reader: Reader | OverTables
    schema: Schema | None = None
    """The contract of the rows; `None` if it is inferred, and empty if it is that of the tables that are read."""
    new_columns: NewColumns | None = None
    """The handling of columns that are not in the contract; `None` uses the reader's default."""
    new_types: TypePolicy = DEFAULT_TYPE_POLICY
    """The handling of values that the type of their column cannot represent."""
    unreadable: Unreadable = "fail"
    event_time: EventTime | None = None
    bound: Bound = UNBOUNDED
    """Limits on how much one run reads."""
    owner: str = ""
    """Who is responsible for the data in the system."""

    @property
    def responsible(self) -> str:
        """The owner of the data in the system."""
        return self.owner

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
    def evolves(self) -> bool:
        """Whether its table may have more columns, or wider types, than its contract."""
        return self.new_columns == "evolve" or self.new_types.has("evolve")

    @property
    def fingerprint(self) -> str:
        """Changes with the reader's options, the contract and the expectations."""
        columns = () if self.schema is None else tuple(self.schema.as_dict().items())
        return fingerprint(
            "source", self.reader.fingerprint, columns, *self._parts(), *_policy(self.new_columns, self.new_types)
        )


def _policy(new_columns: NewColumns | None, new_types: TypePolicy) -> tuple[str, ...]:
    """Return the parts of the policies that affect the stored rows; with any other policy, such a run would have failed."""
    columns = ("discard_row",) if new_columns == "discard_row" else ()
    types = new_types.fingerprint
    return (*columns, "types", *types) if types else columns


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
        return fingerprint("feed", self.reader.fingerprint, columns, *_policy(self.new_columns, self.new_types))


@dataclass(frozen=True, kw_only=True)
class Table(StoredDefinition):
    """A table computed from other tables. Calling it runs its transform on in-memory tables."""

    transform: Transform
    role: str = "table"
    chart: Chart | None = None
    remembers: bool = False
    """Whether the transform also reads the previous version of this table, as a slowly changing dimension does."""
    streaming: Streaming = field(default_factory=Streaming)
    is_computed_once: bool = False
    """Whether it stays as it is when its inputs change, once it has rows; its definition or `--full` computes it again."""
    deadline: timedelta | None = None
    """The time within which it should be computed on a cluster, which adds nodes for it; `None`: as soon as possible."""

    @property
    def computed_by(self) -> Transform:
        """Its transform."""
        return self.transform

    @property
    def kind(self) -> str:
        """`table`, `dimension`, `fact`, `mart`, `feature view` or `training set`."""
        return self.role

    @property
    def may_be_streamed(self) -> bool:
        """Whether a stream may compute it; other kinds are computed by runs."""
        return self.role in {"table", "feature view", "predictions"}

    @property
    def inputs(self) -> tuple[str, ...]:
        """The transform's inputs, excluding the table itself if it reads its previous version; and the artifacts that it uses."""
        tables = (name for name in self.transform.inputs if name != self.name or not self.remembers)
        return (*tables, *self.artifacts)

    @property
    def fingerprint(self) -> str:
        """Changes with the transform, the key, the merge options and the expectations."""
        merge = () if self.merge is None else self.merge.parts
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
    def lake(self) -> Storage:
        """The storage of the lake."""

    @property
    def run_id(self) -> str:
        """The id of the run that builds it."""

    @property
    def state(self) -> Path:
        """The folder for local files that can be recreated."""

    def definition(self, name: str) -> Definition:
        """Return the definition of an input."""

    def table(self, name: str) -> pa.Table:
        """Return all rows of an input."""

    def scan(self, name: str) -> Scan:
        """Return the files with all rows of an input, of one version."""

    def query(self, text: str) -> pa.Table:
        """Return the rows of a SELECT over inputs."""

    def row_count(self, name: str) -> int:
        """Return the number of rows of an input."""

    def version(self, name: str) -> int:
        """Return a number that identifies the rows that `table` returns; it differs if the rows differ."""


@dataclass(frozen=True, kw_only=True)
class Artifact(Definition):
    """A definition whose result is not a table, for example a model."""

    @property
    def decides(self) -> str:
        """What each run decides about, in words; empty if it is built when its inputs or its definition change."""
        return ""

    @abstractmethod
    def verdict(self, context: BuildContext) -> Verdict | None:
        """Return the existing verdict for these inputs and this definition, or `None` if there is none."""

    @abstractmethod
    def build(self, context: BuildContext) -> Verdict:
        """Build the artifact, evaluate it, store it if it is accepted, and return the verdict."""

    @abstractmethod
    def registered(self, store: str, name: str) -> frozenset[str] | None:
        """Return the versions that the store at a URI has of an artifact of this kind, also of one that is not defined.

        `None` if artifacts of this kind have no versions.
        """


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
