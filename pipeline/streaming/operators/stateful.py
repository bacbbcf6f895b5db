"""State of one's own: a function that is given what it remembered of each key, and the key's new rows."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipeline.core.definitions import Expectation, Layer, Table, checks, names, streaming_of
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.event_time import span
from pipeline.core.fingerprint import fingerprint, of_function
from pipeline.core.functions import place_of
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
    """Define a table by a function `(state, rows) -> (state, rows)` of Arrow tables; the second parameter names the input.

    `state` has one row for each key of the call: the columns of `key`, those declared in `state=` (DuckDB types, as in
    `"bigint default 0"`; else null at first) and `_timer`, a time or null. `rows` are the input's, in the order of `event_time`;
    of equal times, in that of the log: by `_source`, then by `_position`, where the input has them; then of all columns.
    The function returns the states to remember, of these keys only (a key without one is forgotten), and the rows of the
    table, which have the columns of `schema=`.

    A call brings rows of many keys, and of each the rows of one instant, the earliest that wait, so that what it returns
    cannot depend on how a stream is cut. With `batched` it brings all rows of a key that are due, up to its timer: fewer
    calls, for a function that gives the same whether rows of a key come in one call or, cut between two instants, in two,
    with a call for a timer between them that the first has set.
    Either way it treats each key by itself, and nothing else decides what it returns: not the clock, nor what it was called
    with before.

    A state's `_timer` is a time at which the key comes again, without rows, after its rows of up to that time and before
    later ones. The function sets it; once it has passed, one that is not later counts as none. A key is forgotten, with its
    timer, when its next row would be later than `ttl` after its last one.

    Rows without an event time are left out. Raises `DefinitionError` for a function with other parameters.
    """

    def decorate(function: Callable[..., Any]) -> Table:
        place = place_of(function)
        parameters = tuple(inspect.signature(function).parameters)
        name = getattr(function, "__name__", "")
        if len(parameters) != 2 or parameters[0] != "state":  # noqa: PLR2004 - the state and the rows
            raise DefinitionError(
                f"stateful {name!r} takes the state and one input",
                got=", ".join(parameters) or "nothing",
                do=f"write def {name}(state, <the input's name>)",
                place=place,
            )
        columns, defaults = _declared(state)
        keys = names(key)
        clash = TIMER if TIMER in keys else next((c for c in columns.names if c in keys or c == TIMER), None)
        if not keys or clash is not None or not schema:
            problem = (
                "needs key= and schema= with at least one column" if clash is None else f"cannot remember {clash!r}"
            )
            raise DefinitionError(
                f"stateful {name!r} {problem}",
                do="give the columns of key=, state= and schema= names of their own",
                place=place,
            )
        lasting = span(ttl, "ttl", place)
        remembered = StateSpec(
            name, keys, columns, tuple(defaults.items()), Schema.of(schema), lasting // _MICROSECOND, batched
        )
        return Table(
            place=place,
            name=name,
            description=inspect.getdoc(function) or "",
            layer=layer,
            partition_by=names(partition_by),
            expect=checks(expect, place),
            transform=StatefulTransform(function, parameters[1], event_time, remembered, place),
            streaming=streaming_of(None, lasting, None, None, place),
        )

    return decorate


def _declared(state: Mapping[str, str]) -> tuple[Schema, dict[str, str]]:
    """Return the columns of a state and the defaults of those that have one."""
    types, defaults = {}, {}
    for name, words in state.items():
        match = _DEFAULT.fullmatch(words.strip())
        types[name] = match[1] if match else words.strip()
        if match:
            defaults[name] = match[2]
    return Schema.of(types), defaults


@dataclass(frozen=True)
class StatefulTransform:
    """A function with a state for each key."""

    function: Callable[..., Any]
    table: str
    event_time: str
    spec: StateSpec
    place: Place

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input."""
        return (self.table,)

    @property
    def fingerprint(self) -> str:
        """A hash of the function's code and of what it remembers."""
        return fingerprint("stateful", of_function(self.function), self.table, self.event_time, self.spec)

    @property
    def language(self) -> str:
        """`arrow`."""
        return "arrow"

    def __call__(self, *args: Any, **tables: Any) -> pa.Table:
        """Return the table for all rows of an in-memory input, which ends there."""
        return self.over_log({**dict(zip(self.inputs, args, strict=False)), **tables}, {})

    def over_log(self, tables: Mapping[str, pa.Table], contracts: Mapping[str, Sequence[str]]) -> pa.Table:
        """Return the same; the place of a row in the log, beside the columns of a contract, only orders rows."""
        streamed = schemas_of(tables, {self.table: self.event_time}, contracts)
        return batch_result(self.operator(streamed, self.place), tables)

    def operator(self, inputs: Mapping[str, StreamedInput], place: Place) -> Operator:
        """Return what streams it."""
        streamed = required(self.table, inputs, self.event_time, place)
        require_columns(self.table, streamed.schema, self.spec.key, place)
        return KeyedStateOperator(self.function, self.table, streamed, self.spec, place)
