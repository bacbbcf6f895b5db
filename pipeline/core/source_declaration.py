"""Declares sources: `source` validates its options against the abilities of the reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Literal, get_args, overload

from pipeline.core.cursors import Bound
from pipeline.core.definitions import Expectation, Feed, Source, Unreadable, caller, checks, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.event_time import EventTime, event_time_of
from pipeline.core.partition_fields import partitioning
from pipeline.core.schema import Schema
from pipeline.core.sources import PROVENANCE, Evolvable, NewColumns, NewTypes, OverTables, Reader, Reparsable, Timed
from pipeline.core.type_policy import TypePolicy


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
    if new_columns == "evolve" and not stored:
        raise DefinitionError(
            "new_columns='evolve' requires a stored source",
            do="remove stored=False, or set new_columns='discard_row'",
            place=place,
        )
    if not isinstance(reader, Evolvable):
        raise DefinitionError(
            "new_columns= is not supported by this source, because its columns cannot change",
            do="remove new_columns=",
            place=place,
        )
    return reader.evolving(new_columns)


def _type_policy(
    reader: Reader | OverTables,
    new_types: NewTypes | Mapping[str, NewTypes],
    names: Sequence[str] | None,
    *,
    stored: bool,
    place: Place,
) -> TypePolicy:
    """Return the policy; raise `DefinitionError` for an unknown value or column, or one that the source cannot have."""
    policy = TypePolicy.of(new_types, place)
    unknown = [name for name, _ in policy.columns if names is not None and name not in names]
    if unknown:
        known = did_you_mean(unknown[0], names or ())
        raise DefinitionError("new_types= names a column that schema= lacks", got=unknown[0], do=known, place=place)
    if policy.actions == {"discard_row"}:
        return policy
    if not isinstance(reader, Reparsable):
        raise DefinitionError(
            "new_types= is not supported by this source, because its rejected rows cannot be read again",
            do="remove new_types=",
            place=place,
        )
    if policy.has("evolve") and not stored:
        problem, do = "new_types='evolve' requires a stored source", "remove stored=False, or new_types="
        raise DefinitionError(problem, do=do, place=place)
    return policy


@overload
def source(
    reader: Reader | OverTables,
    *,
    schema: Mapping[str, str] | None = None,
    key: str | Sequence[str] | None = None,
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    description: str = "",
    owner: str = "",
    new_columns: NewColumns | None = None,
    new_types: NewTypes | Mapping[str, NewTypes] = "discard_row",
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
    owner: str = "",
    new_columns: NewColumns | None = None,
    new_types: NewTypes | Mapping[str, NewTypes] = "discard_row",
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
    owner: str = "",
    new_columns: NewColumns | None = None,
    new_types: NewTypes | Mapping[str, NewTypes] = "discard_row",
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

    `new_columns` specifies what happens to a column that is in the data but not in the contract: `"evolve"` adds it to the
    table, `"freeze"` (the default for files) fails the run, `"discard_row"` quarantines rows with a value in it, and
    `"discard_value"` (the default for messages) ignores it. With `"evolve"`, `schema` may omit columns, and columns that
    are missing in the data are null.

    `owner` is who is responsible for the data where it comes from: a team or an address, shown by `headwater lineage`.

    `new_types` specifies what happens to a value that the type of its column cannot represent: `"discard_row"` quarantines
    the row, `"discard_value"` stores null instead of the value and counts it, `"freeze"` fails the run, and `"evolve"`
    widens the type of the column if that changes no stored value, for example from `integer` to `bigint`. A mapping
    names columns, each with its handling; the others have the default, `"discard_row"`.

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
    declared = None if contract is None or new_columns == "evolve" else contract.names
    types = _type_policy(reader, new_types, declared, stored=stored, place=place)
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
            owner=owner,
            reader=reader,
            schema=contract,
            new_columns=new_columns,
            new_types=types,
            unreadable=unreadable,
            event_time=time,
            bound=bound,
        )
    return Source(
        place=place,
        description=description,
        owner=owner,
        layer="bronze",
        key=names(key),
        partition_by=partitioning(partition_by, place),
        expect=checks(expect, place),
        reader=reader,
        schema=contract,
        new_columns=new_columns,
        new_types=types,
        unreadable=unreadable,
        event_time=time,
        bound=bound,
    )
