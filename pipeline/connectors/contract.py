"""Validates rows against a contract: valid rows are cast, invalid rows are rejected with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors import nested_values, values
from pipeline.connectors.values import ConversionRule, TextTraits
from pipeline.core.errors import NewColumnsError, Place, SchemaError, few
from pipeline.core.schema import Column, Schema
from pipeline.core.sources import POSITION, PROVENANCE, NewColumns, ReadResult
from pipeline.kernel.engine import arrow, schema_of
from pipeline.kernel.sql_text import literal, quoted

RAW = "raw"
"""The temporary table that `apply_contract` reads: `_position` and the raw values."""
REJECTED = pa.schema([(POSITION, pa.int64()), ("reason", pa.string()), ("row", pa.string())])
_CHECKED, _SCANNED = "checked_rows", "scanned_rows"
COLUMNS_PER_STATEMENT = 128
"""Maximum number of columns per statement, because DuckDB compares each expression with every other."""
_LIST_TEST_COLUMNS = 32
"""Minimum number of columns with one rule to test as a list: planning a list is faster, testing a short one slower."""
_ITEM = "item"


@dataclass(frozen=True)
class CellExpressions:
    """For each column, SQL for its raw value, and the rule as a function of the names of raw value and cast."""

    raw: Mapping[str, str]
    rule: Callable[[Column, str, str], ConversionRule]


@dataclass(frozen=True)
class RawTable:
    """SQL to access the table `raw`: the cells, an entire row as text, and the condition for a rejected row."""

    cells: CellExpressions
    row: str
    bad: str = "false"
    why: str = "''"
    """SQL for the reason of a row for which `bad` is true."""
    source: str = RAW
    """The table, or a query of it with the columns that the cells need."""
    undeclared: Mapping[str, str] = field(default_factory=dict)
    """SQL for the values of columns that are not in the contract; a row with such a value is rejected."""


def check_columns(
    schema: Schema, names: tuple[str, ...], place: Place, new_columns: NewColumns = "freeze"
) -> tuple[str, ...]:
    """Return the columns of a file that are not in its contract, if rows with a value in one are quarantined.

    Raises `SchemaError` for missing or additional columns, in any order, unless `new_columns` allows them.
    """
    ours = next((name for name in names if name in PROVENANCE), None)
    if ours is not None:
        raise SchemaError(
            f"the column name {ours!r} is reserved for the origin of a row",
            do=f"rename it where the data is read: rename={{{ours!r}: '…'}}",
            place=place,
        )
    folded = {name.lower(): name for name in schema.names}
    known, there = set(schema.names), set(names)
    added = [name for name in names if name not in known]
    missing = [name for name in schema.names if name not in there]
    recased = [name for name in added if name.lower() in folded]
    if recased:
        raise SchemaError(
            "the columns do not match the contract",
            got=few(f"{name!r}, which differs only in case from {folded[name.lower()]!r}" for name in recased),
            do=f"rename it where the data is read: rename={{{recased[0]!r}: {folded[recased[0].lower()]!r}}}",
            place=place,
        )
    not_allowed = [] if new_columns == "evolve" else missing
    refused = added if new_columns == "freeze" else []
    if not_allowed or refused:
        take = 'source(…, new_columns="evolve") adds new columns and makes missing ones null'
        other = (
            "remove missing columns from schema="
            if not_allowed
            else '"discard_row" quarantines rows with a value in a new column, "discard_value" ignores the column'
        )
        raise SchemaError(
            "the columns do not match the contract",
            got=few([*(f"no {name!r}" for name in not_allowed), *(f"new column {name!r}" for name in refused)]),
            do=f"{take}; {other}",
            place=place,
        )
    if added and new_columns == "evolve":
        raise NewColumnsError(
            "there are columns that are not in the contract yet",
            got=few(map(repr, added)),
            do="run again: a run, and the start of a stream, look for new columns before they read",
            place=place,
        )
    return () if new_columns == "discard_value" else tuple(added)


def undeclared_names(schema: Schema, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that are not columns of a contract, ignoring case."""
    known = {name.lower() for name in (*schema.names, *PROVENANCE)}
    return tuple(name for name in names if name.lower() not in known)


def text_cells(raw: Mapping[str, str], texts: TextTraits | None = None) -> CellExpressions:
    """Return cells of raw text from a file, with nested values in DuckDB's format."""

    def rule(column: Column, text: str, cast: str) -> ConversionRule:
        if values.is_nested(column.type):
            return ConversionRule(nested_values.of_text(column, text))
        return values.of_text(column, text, cast, texts)

    return CellExpressions(raw, rule)


def typed_cells(raw: Mapping[str, str], kinds: Mapping[str, str]) -> CellExpressions:
    """Return cells of typed values, by column name."""

    def rule(column: Column, value: str, cast: str) -> ConversionRule:
        del cast
        kind = kinds[column.name]
        if kind == "VARCHAR" and values.is_nested(column.type):
            return ConversionRule(nested_values.of_text(column, value))
        return values.of_type(column, value, kind)

    return CellExpressions(raw, rule)


@dataclass(frozen=True)
class InternalNames:
    """The internal names for each column of a schema, which start with more underscores than any column name."""

    raw: tuple[str, ...]
    cast: tuple[str, ...]
    value: tuple[str, ...]

    @classmethod
    def of(cls, schema: Schema) -> InternalNames:
        """Return the names for a schema's columns."""
        before = "_" * (2 + max((len(name) - len(name.lstrip("_")) for name in schema.names), default=0))
        numbers = range(len(schema.columns))
        return cls(*(tuple(f"{before}{kind}{i}" for i in numbers) for kind in ("t", "r", "v")))

    def part(self, begin: int, count: int) -> InternalNames:
        """Return the names for some of the columns."""
        return InternalNames(*(names[begin : begin + count] for names in (self.raw, self.cast, self.value)))


def cast_cells(schema: Schema, cells: CellExpressions, source: str) -> str:
    """Return a query of `source` with the raw value of each column and its cast added."""
    names = InternalNames.of(schema)
    raw = "".join(f", {cells.raw[c.name]} as {name}" for c, name in zip(schema.columns, names.raw, strict=True))
    cast = "".join(
        f", {rule.cast} as {name}" for rule, name in zip(_rules(schema, cells, names), names.cast, strict=True)
    )
    return f"(select *{cast} from (select *{raw} from {source}))"


def casts(schema: Schema) -> str:
    """Return the casts of `cast_cells` under the names of the columns."""
    return _named(InternalNames.of(schema).cast, schema)


def values_of(schema: Schema) -> str:
    """Return the values of `converted` under the names of the columns."""
    return _named(InternalNames.of(schema).value, schema)


def _named(internal: tuple[str, ...], schema: Schema) -> str:
    return ", ".join(f"{name} as {quoted(column)}" for name, column in zip(internal, schema.names, strict=True))


def any_misfit(schema: Schema, cells: CellExpressions, names: InternalNames | None = None) -> str:
    """Return SQL over `cast_cells`, true if one of a row's casts may be lossy: use `apply_contract` for that row.

    Most rows pass all fast tests; only for other rows each column is tested. `names` are the internal names of the
    columns, if `cast_cells` has more columns.
    """
    names = names or InternalNames.of(schema)
    rules = tuple(zip(schema.columns, names.raw, names.cast, _rules(schema, cells, names), strict=True))
    lost = [
        f"({cast} is null and {raw} is not null)"
        for _, raw, cast, rule in rules
        if rule.fast is None and rule.cast != raw
    ]
    alone = [(column, raw, rule) for column, raw, _, rule in rules if rule.fast is not None]
    if len(alone) >= _LIST_TEST_COLUMNS:
        groups: dict[tuple[str, str], list[tuple[Column, str, ConversionRule]]] = {}
        for each in alone:
            groups.setdefault((each[0].type, _test_in_list(each[0], cells)), []).append(each)
        alone = [each for same in groups.values() if len(same) < _LIST_TEST_COLUMNS for each in same]
        for (_, test), same in groups.items():
            if len(same) >= _LIST_TEST_COLUMNS:
                all_came = ", ".join(raw for _, raw, _ in same)
                lost.append(f"not list_bool_and(list_transform([{all_came}], lambda {_ITEM}: {test}))")
    if alone:
        fast = " and ".join(f"({rule.fast})" for _, _, rule in alone)
        each_fits = " and ".join(_test(raw, rule) for _, raw, rule in alone)
        lost.append(f"case when {fast} then false else not ({each_fits}) end")
    return " or ".join(lost) or "false"


def _test(raw: str, rule: ConversionRule) -> str:
    """Return SQL that is true if the cast is lossless."""
    strict = f"coalesce({rule.strict}, false)"
    return f"case when {rule.fast} then true when {raw} is null then true else {strict} end"


def _test_in_list(column: Column, cells: CellExpressions) -> str:
    """Return `_test` for one element of a list of raw values."""
    cast = cells.rule(column, _ITEM, "null").cast
    return _test(_ITEM, cells.rule(column, _ITEM, f"({cast})"))


def _rules(schema: Schema, cells: CellExpressions, names: InternalNames) -> list[ConversionRule]:
    return [cells.rule(*arguments) for arguments in zip(schema.columns, names.raw, names.cast, strict=True)]


def converted(schema: Schema, cells: CellExpressions, source: str) -> str:
    """Return a query that adds the value of each cell to `cast_cells`, null if it is invalid."""
    names = InternalNames.of(schema)
    rules = zip(_rules(schema, cells, names), names.cast, names.value, strict=True)
    kept = "".join(f", {rule.value(cast)} as {value}" for rule, cast, value in rules)
    return f"(select *{kept} from {cast_cells(schema, cells, source)})"


def misfit_tests(schema: Schema) -> list[str]:
    """Return for each column SQL over `converted`, true if its value is invalid."""
    names = InternalNames.of(schema)
    return [f"{value} is null and {raw} is not null" for value, raw in zip(names.value, names.raw, strict=True)]


def misfit_reasons(schema: Schema, undeclared: Mapping[str, str] | None = None) -> str:
    """Return SQL over `converted` for the reasons why a row is rejected, or null.

    `undeclared` is SQL for the values of columns that are not in the contract.
    """
    parts = [
        f"case when {test} then {values.reason(column, raw)} end"
        for column, test, raw in zip(schema.columns, misfit_tests(schema), InternalNames.of(schema).raw, strict=True)
    ]
    parts += [
        f"case when {value} is not null then {literal(f'column {name!r} is not in the contract: ')} || {value} end"
        for name, value in (undeclared or {}).items()
    ]
    listed = ", ".join(parts)
    return f"nullif(concat_ws('; ', {listed}), '')" if listed else "null::varchar"


def is_wide(columns: int) -> bool:
    """Return whether there are so many columns that they are processed in batches."""
    return columns > COLUMNS_PER_STATEMENT


def column_groups(schema: Schema) -> Iterator[Schema]:
    """Yield the columns in batches, one per statement."""
    for begin in range(0, len(schema.columns), COLUMNS_PER_STATEMENT):
        yield Schema(schema.columns[begin : begin + COLUMNS_PER_STATEMENT])


def materialize_wide(con: duckdb.DuckDBPyConnection, source: str, columns: int) -> str:
    """Return the scan; for a very wide one, create and return a temporary table of its rows."""
    if not is_wide(columns):
        return source
    con.execute(f"create or replace temp table {_SCANNED} as from {source}")
    return _SCANNED


def convert_rows(
    con: duckdb.DuckDBPyConnection, schema: Schema, cells: CellExpressions, source: str, undeclared: Mapping[str, str]
) -> tuple[pa.Table, pa.ChunkedArray]:
    """Return the values of a scan's rows in order, and for each row the reasons why it is rejected, or null.

    The columns of a very wide scan are processed in batches, and only the batches with possibly invalid values.
    """
    if not is_wide(len(schema.columns)):
        why = misfit_reasons(schema, undeclared)
        result = arrow(con, f"select {values_of(schema)}, {why} as why from {converted(schema, cells, source)}")
        return pa.table(result.columns[:-1], schema.names), result.columns[-1]
    scanned = materialize_wide(con, source, len(schema.columns))
    rows = cast_cells(schema, cells, scanned)
    result = arrow(con, f"select {casts(schema)}, {_tests(schema, cells, COLUMNS_PER_STATEMENT)} from {rows}").columns
    columns, are_bad = result[: len(schema.columns)], result[len(schema.columns) :]
    reasons: list[pa.ChunkedArray] = []
    for group, is_bad in zip(column_groups(schema), are_bad, strict=True):
        if not pc.any(is_bad).as_py():
            continue
        raw = ", ".join(f"{cells.raw[name]} as {quoted(name)}" for name in group.names)
        batch_cells, batch_rows = (
            CellExpressions(_columns_by_name(group.names), cells.rule),
            f"(select {raw} from {scanned})",
        )
        tests = arrow(
            con, f"select {_tests(group, batch_cells, 1)} from {cast_cells(group, batch_cells, batch_rows)}"
        ).columns
        bad = Schema(tuple(c for c, test in zip(group.columns, tests, strict=True) if pc.any(test).as_py()))
        again = arrow(
            con, f"select {values_of(bad)}, {misfit_reasons(bad)} as why from {converted(bad, batch_cells, batch_rows)}"
        ).columns
        for name, values_again in zip(bad.names, again[:-1], strict=True):
            columns[schema.names.index(name)] = values_again
        reasons.append(again[-1])
    if undeclared:
        reasons += arrow(con, f"select {misfit_reasons(Schema(()), undeclared)} as why from {scanned}").columns
    return pa.table(columns, schema.names), _concatenated(con, reasons, len(columns[0]))


def _tests(schema: Schema, cells: CellExpressions, count: int) -> str:
    """Return `any_misfit` for each batch of columns."""
    names = InternalNames.of(schema)
    begins = range(0, len(schema.columns), count)
    parts = ((Schema(schema.columns[begin : begin + count]), names.part(begin, count)) for begin in begins)
    return ", ".join(
        f"({any_misfit(part, cells, names_of_part)}) as bad{n}" for n, (part, names_of_part) in enumerate(parts)
    )


def _columns_by_name(names: Iterable[str]) -> dict[str, str]:
    """Return SQL for the raw values of columns that the source has under the same names."""
    return {name: quoted(name) for name in names}


def _concatenated(con: duckdb.DuckDBPyConnection, reasons: Sequence[pa.ChunkedArray], rows: int) -> pa.ChunkedArray:
    """Return the text of several columns concatenated, null if all are null."""
    if not reasons:
        return pa.chunked_array([pa.nulls(rows, pa.string())])
    names = [f"w{number}" for number in range(len(reasons))]
    con.register("_reasons", pa.table(list(reasons), names))
    result = arrow(con, f"select nullif(concat_ws('; ', {', '.join(names)}), '') as why from _reasons")
    con.unregister("_reasons")
    return result.column("why")


def apply_contract(con: duckdb.DuckDBPyConnection, schema: Schema, raw: RawTable) -> ReadResult:
    """Validate the rows of `raw` against the contract; rows with a lossy conversion are rejected."""
    con.execute(
        f"create or replace temp table {_CHECKED} as select *, case when {raw.bad} then {raw.why} "
        f"else {misfit_reasons(schema, raw.undeclared)} end as reason from {converted(schema, raw.cells, raw.source)}"
    )
    rows = arrow(
        con, f"select {values_of(schema)}, {POSITION} from {_CHECKED} where reason is null order by {POSITION}"
    )
    rejected = arrow(
        con, f"select {POSITION}, reason, {raw.row} as row from {_CHECKED} where reason is not null order by {POSITION}"
    )
    return ReadResult(rows, rejected.cast(REJECTED))


def not_in_years(schema: Schema) -> str:
    """Return SQL that is true if one of a row's dates or times is before the year 1 or after 9999."""
    parts = (
        f"not ({' and '.join(values.in_years(c, quoted(c.name)))})" for c in schema.columns if values.in_years(c, "")
    )
    return f"coalesce({' or '.join(parts) or 'false'}, false)"


def apply_contract_to_types(
    con: duckdb.DuckDBPyConnection, schema: Schema, undeclared: Sequence[str] = ()
) -> ReadResult:
    """Validate the rows of `raw`, whose values are typed, against the contract; rejected rows are stored as JSON."""
    kinds = schema_of(con, f"from {RAW}").as_dict()
    raw = _columns_by_name(schema.names)
    packed = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in (*schema.names, *undeclared))
    row = f"to_json(struct_pack({packed}))::varchar"
    beyond = {name: f"{quoted(name)}::varchar" for name in undeclared}
    return apply_contract(con, schema, RawTable(typed_cells(raw, kinds), row, undeclared=beyond))


def shift_positions(reading: ReadResult, by: int) -> ReadResult:
    """Return the rows with all positions increased by an offset."""
    return reading if by == 0 else ReadResult(_shifted(reading.rows, by), _shifted(reading.rejected, by))


def _shifted(rows: pa.Table, by: int) -> pa.Table:
    at = rows.schema.get_field_index(POSITION)
    return rows.set_column(at, POSITION, pc.add(rows.column(at), by))
