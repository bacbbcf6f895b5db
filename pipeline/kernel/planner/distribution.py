"""What one bucket holds of a relation, and what joins, filters and set operations make of it.

An exchange sends each row of some inputs to the bucket of its key, and the whole of the others to every bucket.
A relation computed in each bucket is then either *whole*, the same in all, or the buckets' shares of it make up the
relation. A share knows by which terms its rows are in their bucket: `keys` always hold what was hashed; `nullable_keys`
hold it or null, as the columns of an outer join's other side do. Both are by the position of the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.kernel.planner.canonical import Term

Sets = tuple[frozenset[Term], ...]
Kind = Literal["inner", "left", "right", "full", "semi", "anti"]


class NotPartitionableError(Exception):
    """Why a statement cannot run in buckets; never leaves this package."""


@dataclass(frozen=True)
class Equality:
    """Two terms that a row has to have equal; with `nulls`, null is equal to null."""

    left: Term
    right: Term
    nulls: bool = False


@dataclass(frozen=True)
class Distribution:
    """What one bucket holds of a relation; see the module's head."""

    is_replicated: bool
    keys: Sets
    nullable_keys: Sets

    def any_of(self, position: int) -> frozenset[Term]:
        """Return the terms that are the key at a position, or null."""
        return self.keys[position] | self.nullable_keys[position]

    def covered_by(self, terms: Iterable[Term]) -> bool:
        """Return whether rows that are alike in `terms` are all in one bucket."""
        known = frozenset(terms)
        return self.is_replicated or all(known & keys for keys in self.keys)

    def renamed(self, names: Mapping[Term, Term]) -> Sets:
        """Return what is left of the keys where the columns may also be null."""
        return tuple(frozenset(names[term] for term in self.any_of(i) if term in names) for i in range(len(self.keys)))


def filtered(share: Distribution, equals: Iterable[Equality]) -> Distribution:
    """Return the share of the rows in which terms are equal: what equals a key is one."""
    known = list(equals)
    keys = tuple(
        _grown(terms, nullable_keys, known)
        for terms, nullable_keys in zip(share.keys, share.nullable_keys, strict=True)
    )
    return Distribution(share.is_replicated, keys, share.nullable_keys)


def _grown(terms: frozenset[Term], nullable_keys: frozenset[Term], equals: list[Equality]) -> frozenset[Term]:
    grown = set(terms)
    before = -1
    while before < len(grown):
        before = len(grown)
        for equal in equals:
            sides = {equal.left, equal.right}
            if sides & grown or (not equal.nulls and sides & nullable_keys):
                grown |= sides
    return frozenset(grown)


def require_colocated(left: Distribution, right: Distribution, kind: Kind, equals: list[Equality], what: str) -> None:
    """Raise `NotPartitionableError` unless the join of two shares is the bucket's share of the join."""
    if left.is_replicated and right.is_replicated:
        return
    if left.is_replicated and kind in {"left", "full", "semi", "anti"}:
        raise NotPartitionableError(
            f"{what}: a {kind.upper()} JOIN keeps rows of its left side, which every bucket has"
        )
    if right.is_replicated and kind in {"right", "full"}:
        raise NotPartitionableError(
            f"{what}: a {kind.upper()} JOIN keeps rows of its right side, which every bucket has"
        )
    if not left.is_replicated and not right.is_replicated and not _are_colocated(left, right, equals):
        raise NotPartitionableError(f"{what} is not joined by the key")


def _are_colocated(left: Distribution, right: Distribution, equals: list[Equality]) -> bool:
    """Return whether rows that match are in one bucket, at each position of the key."""
    loose = filtered(left, equals)
    strict = filtered(left, [equal for equal in equals if not equal.nulls])
    return all(loose.keys[i] & right.keys[i] or strict.keys[i] & right.any_of(i) for i in range(len(left.keys)))


def both(left: Distribution, right: Distribution) -> Distribution:
    """Return the share of the pairs of rows of two shares."""
    return Distribution(
        left.is_replicated and right.is_replicated,
        tuple(a | b for a, b in zip(left.keys, right.keys, strict=True)),
        tuple(a | b for a, b in zip(left.nullable_keys, right.nullable_keys, strict=True)),
    )


def set_operation(
    left: Distribution, right: Distribution, columns: list[tuple[Term, Term, Term]], operation: str
) -> Distribution:
    """Return the share of a set operation; `columns` are its own, with the left and the right side's.

    `operation` is one of `union all`, `union`, `except`, `intersect`.
    """
    keeps_left = operation in {"except", "intersect"} and right.is_replicated and not left.is_replicated
    if left.is_replicated != right.is_replicated and not keeps_left:
        raise NotPartitionableError(f"{operation.upper()}: every bucket has one of its sides whole")
    positions = range(len(left.keys))
    keys = tuple(
        frozenset(term for term, a, b in columns if a in left.keys[i] and (keeps_left or b in right.keys[i]))
        for i in positions
    )
    nullable_keys = tuple(
        frozenset(term for term, a, b in columns if a in left.any_of(i) and (keeps_left or b in right.any_of(i)))
        for i in positions
    )
    if operation != "union all" and not left.is_replicated and not all(keys):
        raise NotPartitionableError(
            f"{operation.upper()} compares rows of other buckets: the key is not among its columns"
        )
    return Distribution(left.is_replicated and right.is_replicated, keys, nullable_keys)
