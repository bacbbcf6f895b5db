"""States of aggregate calls, each as SQL: the partial state of a split, the merged state, and the final value.

Values from Arrow are cast to their original type, which Arrow does not always preserve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.kernel.sql_text import literal

STATES = "_states"
"""The table of the states of all splits, with one row per split and key, in the order of the splits."""
AT = "_at"
"""The column with the row number in this table."""
Binding = Literal["given", "double", "boolean", "varchar", "widened", "quantile", "quantiles"]
"""The argument types that identify a call's state to DuckDB: the given types, a fixed type, or wider types."""
_WIDENED = {
    **dict.fromkeys(("TINYINT", "UTINYINT", "USMALLINT", "UINTEGER", '"NULL"'), "BIGINT"),
    **dict.fromkeys(("DATE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "TIMESTAMP"),
    **dict.fromkeys(("FLOAT", "UHUGEINT"), "DOUBLE"),
    "UBIGINT": "HUGEINT",
}
"""The type to which DuckDB casts an argument if the function has no overload for its type."""
_NOT_WIDENED = {"widened": set[str](), "quantile": {"DATE"}, "quantiles": {"DATE", "TINYINT", "FLOAT"}}


@dataclass(frozen=True)
class ExportedState:
    """A call whose state DuckDB exports and merges."""

    column: str
    name: str
    sql: str
    arguments: tuple[str, ...]
    binding: Binding
    parameters: tuple[tuple[str, str], ...] = ()
    """The type and the SQL of each constant that follows the arguments."""
    order: str = ""
    """The ORDER BY in which states must be merged to get the result of the direct query."""

    def partial(self) -> str:
        """Return the state that a split computes."""
        return f"{self.sql} export_state as {self.column}"

    def finalized(self, kinds: tuple[str, ...]) -> str:
        """Return the call's value over the states of a group; `kinds` are the types of its arguments."""
        return f"finalize({self.merged(kinds)})"

    def merged(self, kinds: tuple[str, ...]) -> str:
        """Return the merged state of a group."""
        return f"combine_aggr({self._state(kinds)}{self.order})"

    def value(self, kinds: tuple[str, ...]) -> str:
        """Return the call's value of one state."""
        return f"finalize({self._state(kinds)})"

    def _state(self, kinds: tuple[str, ...]) -> str:
        bound = [self._bound(kind) for kind in kinds]
        types = ", ".join(literal(kind) for kind in (*bound, *(kind for kind, _ in self.parameters)))
        constants = ", ".join([*("null" for _ in bound), *(f"{sql}::{kind}" for kind, sql in self.parameters)])
        state = f"to_aggregate_state({self.column}, {literal(self.name)}, [{types}]"
        return f"{state}{f', [{constants}]' if self.parameters else ''})"

    def _bound(self, kind: str) -> str:
        if self.binding == "given":
            return kind
        if self.binding in _NOT_WIDENED:
            return kind if kind in _NOT_WIDENED[self.binding] else _WIDENED.get(kind, kind)
        return self.binding.upper()


@dataclass(frozen=True)
class ListState:
    """A call that is repeated over the values kept by each split."""

    column: str
    arguments: tuple[str, ...]
    kept: str
    """A list of values, or of structs `v0…` with one for each argument."""
    again: str
    """The call over columns `<column>_0…`."""
    packed: bool
    kept_again: str = ""
    """As `kept`, over columns `<column>_0…`."""

    def partial(self) -> str:
        """Return the state that a split computes."""
        return f"{_never_empty(self.kept)} as {self.column}"

    def rows(self, keys: str, kinds: tuple[str, ...]) -> str:
        """Return the SELECT of one row per kept value, with its keys."""
        column = self.column
        if not self.packed:
            return f"select {keys}{typed(f'unnest({column})', kinds[0])} as {column}_0 from {STATES}"
        values = [f"{typed(f'{column}.v{i}', kind)} as {column}_{i}" for i, kind in enumerate(kinds)]
        rows = f"select {keys}unnest({column}) as {column} from {STATES}"
        chosen = f"{keys}row_number() over () as {AT}, true as {column}_is, {', '.join(values)}"
        return f"select {chosen} from ({rows}) where {column} is not null"

    def finalized(self, _kinds: tuple[str, ...]) -> str:
        """Return the call's value over the kept values of a group."""
        return self.again

    def merged(self, _kinds: tuple[str, ...]) -> str:
        """Return the kept values of a group that the call may need."""
        return _never_empty(self.kept_again)


@dataclass(frozen=True)
class CountState:
    """A call that depends only on the number of occurrences of each value."""

    column: str
    name: str
    arguments: tuple[str, ...]
    where: str

    def partial(self) -> str:
        """Return the state that a split computes."""
        return f"{_never_empty(f'map_entries(histogram({self.arguments[0]}){self.where})')} as {self.column}"

    def rows(self, keys: str, kinds: tuple[str, ...]) -> str:
        """Return the SELECT of one row per value, with its keys and count."""
        column = self.column
        rows = f"select {keys}unnest({column}) as {column} from {STATES}"
        value = typed(f"{column}.key", kinds[0])
        return f"select {keys}{value} as {column}_0, sum({column}.value) as {column}_n from ({rows}) group by all"

    def finalized(self, _kinds: tuple[str, ...]) -> str:
        """Return the call's value over the counts of a group."""
        value, count = f"{self.column}_0", f"{self.column}_n"
        if self.name == "mode":
            return f"arg_min({value}, (-{count}, {value}))"
        if self.name == "entropy":
            return f"coalesce(greatest(log2(sum({count})) - sum({count} * log2({count})) / sum({count}), 0), 0)"
        entry = f"{{'key': {value}, 'value': {count}::UBIGINT}}"
        return f"map_from_entries(list({entry} order by {value}) filter (where {count} is not null))"

    def merged(self, _kinds: tuple[str, ...]) -> str:
        """Return the counts of a group, each value once."""
        value, count = f"{self.column}_0", f"{self.column}_n"
        return _never_empty(f"list({{'key': {value}, 'value': {count}::UBIGINT}}) filter (where {count} is not null)")


State = ExportedState | ListState | CountState


def typed(sql: str, kind: str) -> str:
    """Return a value from Arrow, cast to its DuckDB type."""
    return sql if kind == '"NULL"' else f"{sql}::{kind}"


def _never_empty(values: str) -> str:
    """Return a list that contains null instead of being empty: DuckDB cannot read Arrow batches of empty enum lists."""
    return f"coalesce({values}, [null])"
