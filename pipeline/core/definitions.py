"""What a project is made of: sources, tables and artifacts, each a frozen description that runs nothing.

A definition's name is the name it is assigned to (or its function's), its inputs are its parameters (or the
names after FROM), its docstring is its description. The runner in `pipeline.run` gives them their data.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from pipeline.core.errors import DefinitionError, Place
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.core.reading import Reader

Layer = Literal["bronze", "silver", "gold"]
LAYERS: tuple[Layer, ...] = ("bronze", "silver", "gold")
UNIQUE, NOT_NULL = "key_is_unique", "key_is_not_null"
"""The expectations that a key brings."""
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

    def named(self, name: str) -> Self:
        """Return the definition with its name, unless it has one."""
        return self if self.name else replace(self, name=name)


@dataclass(frozen=True, kw_only=True)
class Stored(Definition):
    """A definition whose product is a table in the lake."""

    layer: Layer
    key: tuple[str, ...] = ()
    partition_by: tuple[str, ...] = ()
    expect: tuple[Expectation, ...] = ()

    def _parts(self) -> tuple[object, ...]:
        checks = tuple((e.name, e.condition, e.action.value) for e in self.expect)
        return (self.layer, self.key, self.partition_by, checks)


@dataclass(frozen=True, kw_only=True)
class Source(Stored):
    """Where data enters: a reader, and the contract its rows are held to."""

    reader: Reader
    schema: Schema | None = None

    @property
    def kind(self) -> str:
        """`source`."""
        return "source"

    @property
    def fingerprint(self) -> str:
        """Changes with the reader's options, the contract and the expectations."""
        columns = () if self.schema is None else tuple(self.schema.as_dict().items())
        return fingerprint("source", self.reader.fingerprint, columns, *self._parts())


@dataclass(frozen=True, kw_only=True)
class Table(Stored):
    """A table made from other tables. Calling it runs its transform on in-memory tables."""

    transform: Transform
    role: str = "table"
    chart: Chart | None = None
    remembers: bool = False
    """Whether the transform also reads the table's own last version, as a slowly changing dimension does."""

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
        """Changes with the transform, the key, the partitioning and the expectations."""
        return fingerprint(self.role, self.transform.fingerprint, self.remembers, *self._parts())

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


class Bench(Protocol):
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
    def is_current(self, bench: Bench) -> bool:
        """Return whether the last product was judged on just these inputs and this definition."""

    @abstractmethod
    def build(self, bench: Bench) -> Verdict:
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
    seen = {UNIQUE, NOT_NULL}
    for expectation in expect:
        if expectation.name in seen:
            taken = "is what a key brings" if expectation.name in {UNIQUE, NOT_NULL} else "is given twice"
            raise DefinitionError(f"expectation {expectation.name!r} {taken}", do="give each its own name", place=place)
        seen.add(expectation.name)
    return tuple(expect)


def caller() -> Place:
    """Return the place of the nearest call from outside Headwater: where a definition is written."""
    ours = tuple(f"{Path(__file__).parents[2] / top}{os.sep}" for top in ("pipeline", "ml"))
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to a caller's line
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)


def source(
    reader: Reader,
    *,
    schema: Mapping[str, str] | None = None,
    key: str | Sequence[str] | None = None,
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> Source:
    """Define where data enters; its rows land in a bronze table of the name it is assigned to.

    `schema` maps column names to DuckDB types; without it the types are read from the first data and held to
    from then on. Rows that do not fit go to quarantine with their position. Each committed row carries
    `_source`, `_position` and `_ingested_at`.
    """
    place = caller()
    return Source(
        place=place,
        description=description,
        layer="bronze",
        key=names(key),
        partition_by=names(partition_by),
        expect=checks(expect, place),
        reader=reader,
        schema=None if schema is None else Schema.of(schema),
    )
