"""Custom state: a function that receives the state of each key and the new rows of the key."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipeline.core.definitions import Expectation, Layer, Table, checks, names, streaming_of
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.event_time import parse_duration
from pipeline.core.fingerprint import fingerprint, of_function
from pipeline.core.functions import place_of_decorated
from pipeline.core.partition_fields import partitioning
from pipeline.core.schema import Schema
from pipeline.streaming.operators.batch_form import StreamedInput, batch_result, require_columns, required, schemas_of
from pipeline.streaming.operators.keyed_state import TIMER, KeyedStateOperator, StateSpec
from pipeline.streaming.operators.operator import Operator

if TYPE_CHECKING:
    import pyarrow as pa

_DEFAULT = re.compile(r"(.*?)\s+default\s+(.*)", re.IGNORECASE | re.DOTALL)
_MICROSECOND = timedelta(microseconds=1)


def stateful(  # noqa: PLR0913 - options of a definition
    *,
    key: str | Sequence[str],
    event_time: str,
    state: Mapping[str, str],
    schema: Mapping[str, str],
    ttl: str | timedelta,
    batched: bool = False,
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    layer: Layer = "silver",
) -> Callable[[Callable[..., Any]], Table]:
    """Define a table by a function `(state, rows) -> (state, rows)` of Arrow tables.

    The second parameter of the function names the input.

    `state` has one row per key of the call: the columns of `key`, those declared in `state=` (DuckDB types such as
    `"bigint default 0"`; null initially without a default), and `_timer`, a time or null. `rows` are rows of the input,
    ordered by `event_time`, then by `_source` and `_position` where the input has them, then by all columns. The
    function returns the new states, only of these keys (the state of a key without one is deleted), and the rows of the
    table with the columns of `schema=`.

    A call receives rows of many keys: for each key, the rows of its earliest pending event time. Therefore the result
    does not depend on how a stream is divided into batches. With `batched`, a call receives all due rows of a key, up
    to its timer. This needs fewer calls. The function must then return the same whether the rows of a key come in one
    call or, divided between two event times, in two, with a call for a timer in between if the first call has set one.
    Either way, the function must process each key independently, and its result must depend on its arguments alone.

    `_timer` is a time at which the function is called for the key without rows, after the rows up to that time and
    before later ones. The function sets it. After the timer has fired, a value that is not later is ignored. The state
    of a key and its timer expire when the next row of the key is more than `ttl` later than the previous one.

    Rows without an event time are excluded. Raises `DefinitionError` for a function with other parameters.
    """

    def decorate(function: Callable[..., Any]) -> Table:
        place = place_of_decorated(function, "stateful")
        name = getattr(function, "__name__", "")
        table = _input_of(function, name, place)
        columns, defaults = _declared(state)
        keys = names(key)
        _require_columns(name, (keys, columns.names, schema), place)
        lasting = parse_duration(ttl, "ttl", place)
        spec = StateSpec(
            name, keys, columns, tuple(defaults.items()), Schema.of(schema), lasting // _MICROSECOND, batched
        )
        return Table(
            place=place,
            name=name,
            description=inspect.getdoc(function) or "",
            layer=layer,
            partition_by=partitioning(partition_by, place),
            expect=checks(expect, place),
            transform=StatefulTransform(function, table, event_time, spec, place),
            streaming=streaming_of(None, lasting, None, None, place),
        )

    return decorate


def _input_of(function: Callable[..., Any], name: str, place: Place) -> str:
    """Return the input that the second parameter names; raise `DefinitionError` for other parameters."""
    parameters = tuple(inspect.signature(function).parameters)
    if len(parameters) != 2 or parameters[0] != "state":  # noqa: PLR2004 - the state and the rows
        raise DefinitionError(
            f"stateful {name!r} must have the parameters state and one input",
            got=", ".join(parameters) or "no parameters",
            do=f"write def {name}(state, <name of the input>)",
            place=place,
        )
    return parameters[1]


def _require_columns(name: str, columns: tuple[Sequence[str], Sequence[str], Collection[str]], place: Place) -> None:
    """Raise `DefinitionError` for a clash between the columns of key and state, or if key or output has no columns."""
    key, state, output = columns
    clash = TIMER if TIMER in key else next((column for column in state if column in key or column == TIMER), None)
    if clash is not None:
        raise DefinitionError(
            f"stateful {name!r} cannot have a state column {clash!r}",
            do=f"use names in key= and state= that differ from each other and from {TIMER!r}",
            place=place,
        )
    if not key or not output:
        raise DefinitionError(f"stateful {name!r} needs at least one column in key= and in schema=", place=place)


def _declared(state: Mapping[str, str]) -> tuple[Schema, dict[str, str]]:
    """Return the declared columns of a state, and the defaults of those that have one."""
    types, defaults = {}, {}
    for name, declaration in state.items():
        match = _DEFAULT.fullmatch(declaration.strip())
        types[name] = match[1] if match else declaration.strip()
        if match:
            defaults[name] = match[2]
    return Schema.of(types), defaults


@dataclass(frozen=True)
class StatefulTransform:
    """A function with a state per key."""

    function: Callable[..., Any]
    table: str
    event_time: str
    spec: StateSpec
    place: Place

    @property
    def inputs(self) -> tuple[str, ...]:
        """The name of the input."""
        return (self.table,)

    @property
    def fingerprint(self) -> str:
        """A hash of the function's code and of the declaration of its state."""
        return fingerprint("stateful", of_function(self.function), self.table, self.event_time, self.spec)

    @property
    def language(self) -> str:
        """`arrow`."""
        return "arrow"

    def __call__(self, *args: Any, **tables: Any) -> pa.Table:
        """Return the table for all rows of an in-memory input, after which the input ends."""
        return self.over_log({**dict(zip(self.inputs, args, strict=False)), **tables}, {})

    def over_log(self, tables: Mapping[str, pa.Table], contracts: Mapping[str, Sequence[str]]) -> pa.Table:
        """Return the table for an input with log positions, which are not in the contract and only order the rows."""
        streamed = schemas_of(tables, {self.table: self.event_time}, contracts)
        return batch_result(self.operator(streamed, self.place), tables)

    def operator(self, inputs: Mapping[str, StreamedInput], place: Place) -> Operator:
        """Return the operator that streams the function."""
        streamed = required(self.table, inputs, self.event_time, place)
        require_columns(self.table, streamed.schema, self.spec.key, place)
        return KeyedStateOperator(self.function, self.table, streamed, self.spec, place)
