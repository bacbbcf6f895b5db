"""How a table applies changes by key: the options of AUTO CDC, under the names that Lakeflow and Spark give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from pipeline.core.errors import DefinitionError, Place, did_you_mean

START_AT, END_AT = "__START_AT", "__END_AT"
"""The columns of a table with history: the sequence at which a version begins, and at which it ends (exclusive, or null)."""


class MergeOptions(TypedDict, total=False):
    """The options of a table that applies changes by key, in any order of arrival."""

    sequence_by: str | Sequence[str]
    """The column, or columns, by which the changes of a key are ordered."""
    apply_as_deletes: str
    """A SQL condition that is true for a row that deletes its key."""
    apply_as_truncates: str
    """A SQL condition that is true for a row that deletes all keys; its key may be null."""
    ignore_null_updates: bool
    """Whether a null in a column leaves the value of the preceding change."""
    ignore_null_updates_column_list: str | Sequence[str]
    """The columns whose nulls are ignored; those of all others are written."""
    ignore_null_updates_except_column_list: str | Sequence[str]
    """The columns whose nulls are written; those of all others are ignored."""
    unavailable_columns: str
    """A column with the names of the columns that a change does not contain; they keep the value of the preceding change."""
    column_list: str | Sequence[str]
    """The columns that are stored; by default all."""
    except_column_list: str | Sequence[str]
    """The columns that are not stored."""
    stored_as_scd_type: Literal[1, 2]
    """1: the current row of each key; 2: all its versions, with `__START_AT` and `__END_AT`."""
    track_history_column_list: str | Sequence[str]
    """The columns whose changes begin a new version; by default all but the key."""
    track_history_except_column_list: str | Sequence[str]
    """The columns whose changes do not begin a new version."""
    from_snapshots: bool
    """Whether rows with an equal sequence are a complete snapshot, so that a key that is not in the next one is deleted."""


@dataclass(frozen=True)
class ColumnChoice:
    """Some columns: these, or all except these."""

    names: tuple[str, ...] = ()
    is_except: bool = True

    def of(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the chosen ones of some columns."""
        return tuple(name for name in columns if (name in self.names) != self.is_except)

    @property
    def is_all(self) -> bool:
        """Whether all columns are chosen."""
        return self.is_except and not self.names


EVERY, NONE = ColumnChoice(), ColumnChoice(is_except=False)


@dataclass(frozen=True)
class Merge:
    """How changes of one key are merged: the change with the greatest sequence counts, and a delete removes the key."""

    sequence_by: tuple[str, ...]
    apply_as_deletes: str | None = None
    apply_as_truncates: str | None = None
    ignored_nulls: ColumnChoice = NONE
    unavailable: str | None = None
    stored: ColumnChoice = EVERY
    scd_type: Literal[1, 2] = 1
    tracked: ColumnChoice = EVERY
    from_snapshots: bool = False

    @property
    def needs_events(self) -> bool:
        """Whether the rows of a key depend on more than its last change, so that all changes are kept beside the table."""
        return self != Merge(self.sequence_by, self.apply_as_deletes)

    @property
    def parts(self) -> tuple[object, ...]:
        """What a fingerprint of the table contains."""
        sequence = self.sequence_by[0] if len(self.sequence_by) == 1 else self.sequence_by
        rest = (self.apply_as_truncates, self.ignored_nulls, self.unavailable, self.stored, self.scd_type, self.tracked)
        return (sequence, self.apply_as_deletes, *((*rest, self.from_snapshots) if self.needs_events else ()))

    def columns(self, key: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
        """Return the stored ones of a row's columns; the key is always one of them."""
        stored = self.stored.of(names)
        return tuple(name for name in names if name in key or (name in stored and name != self.unavailable))


def merge_of(key: tuple[str, ...], options: MergeOptions, place: Place) -> Merge | None:
    """Return the merge options of a table, or `None` if it is not merged.

    Raises `DefinitionError` for an unknown option, if a required one is missing, if the sequence is part of the key, and for options that
    contradict each other.
    """
    known = MergeOptions.__annotations__
    for name in options:
        if name not in known:
            raise DefinitionError("unknown option", got=f"{name}=", do=did_you_mean(name, (*known, "key")), place=place)
    given = {name: value for name, value in options.items() if value}
    if not given:
        return None
    if "sequence_by" not in given:
        raise DefinitionError(
            f"{next(iter(given))}= requires sequence_by=",
            got=repr(next(iter(given.values()))),
            do="set sequence_by= to the column that orders the rows of a key",
            place=place,
        )
    sequence = _names(options["sequence_by"])
    _require_key(key, sequence, place)
    _require_consistent(key, options, place)
    only = options.get("ignore_null_updates_column_list")
    except_ = options.get("ignore_null_updates_except_column_list")
    ignores = bool(options.get("ignore_null_updates") or only or except_)
    nulls = _choice(only, except_) if ignores else NONE
    return Merge(
        sequence_by=sequence,
        apply_as_deletes=options.get("apply_as_deletes"),
        apply_as_truncates=options.get("apply_as_truncates"),
        ignored_nulls=nulls,
        unavailable=options.get("unavailable_columns"),
        stored=_choice(options.get("column_list"), options.get("except_column_list")),
        scd_type=options.get("stored_as_scd_type", 1),
        tracked=_choice(
            options.get("track_history_column_list"),
            (*_names(options.get("track_history_except_column_list")), *key),
        )
        if options.get("stored_as_scd_type") == 2  # noqa: PLR2004 - the standard number of the type
        else EVERY,
        from_snapshots=bool(options.get("from_snapshots")),
    )


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _choice(only: str | Sequence[str] | None, except_: str | Sequence[str] | None) -> ColumnChoice:
    return ColumnChoice(_names(only), is_except=False) if only else ColumnChoice(_names(except_))


def _require_key(key: tuple[str, ...], sequence: tuple[str, ...], place: Place) -> None:
    shown = repr(sequence[0] if len(sequence) == 1 else list(sequence))
    if not key:
        raise DefinitionError(
            "a table with sequence_by= requires a key", got=f"sequence_by={shown}", do="set key=", place=place
        )
    if set(sequence) & set(key):
        raise DefinitionError(
            "sequence_by= must not be part of the key",
            got=shown,
            do="remove it from key=, or choose another sequence_by=",
            place=place,
        )


def _require_consistent(key: tuple[str, ...], options: MergeOptions, place: Place) -> None:
    given = {name for name, value in options.items() if value}
    both = (
        ("column_list", "except_column_list"),
        ("track_history_column_list", "track_history_except_column_list"),
        ("ignore_null_updates_column_list", "ignore_null_updates_except_column_list"),
        ("from_snapshots", "apply_as_deletes"),
        ("from_snapshots", "apply_as_truncates"),
        ("from_snapshots", "ignore_null_updates"),
    )
    for one, other in both:
        if {one, other} <= given:
            raise DefinitionError(f"{one}= and {other}= contradict each other", do="remove one of them", place=place)
    kind = options.get("stored_as_scd_type", 1)
    if kind not in {1, 2}:
        raise DefinitionError("stored_as_scd_type= must be 1 or 2", got=repr(kind), place=place)
    history = sorted(name for name in given if name.startswith("track_history"))
    if history and kind == 1:
        raise DefinitionError(f"{history[0]}= requires stored_as_scd_type=2", do="set it, or remove this", place=place)
    left_out = sorted(set(_names(options.get("except_column_list"))) & set(key))
    if left_out:
        raise DefinitionError("except_column_list= must not contain the key", got=repr(left_out[0]), place=place)
