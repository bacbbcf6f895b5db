"""The distribution of a relation over buckets, and how joins, filters and set operations change it.

An exchange sends each row of the partitioned inputs to the bucket of its key, and copies the other inputs to every bucket.
A relation computed per bucket is then either *replicated*, the same in all buckets, or partitioned: the union of the
buckets is the relation. A partitioned relation has terms by which its rows are distributed: `keys` always equal the hashed
value; `nullable_keys` equal it or are null, like the columns of the outer side of a join. Both are per position of the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.kernel.planner.canonical import Term

Sets = tuple[frozenset[Term], ...]
Kind = Literal["inner", "left", "right", "full", "semi", "anti"]


class NotPartitionableError(Exception):
    """A statement cannot run in buckets; only raised within this package."""


@dataclass(frozen=True)
class Equality:
    """Two terms that are equal in every row; with `nulls`, null equals null."""

    left: Term
    right: Term
    nulls: bool = False


@dataclass(frozen=True)
class Distribution:
    """The distribution of a relation over buckets; see the module docstring."""

    is_replicated: bool
    keys: Sets
    nullable_keys: Sets

    def any_of(self, position: int) -> frozenset[Term]:
        """Return the terms that equal the key at a position or are null."""
        return self.keys[position] | self.nullable_keys[position]

    def covered_by(self, terms: Iterable[Term]) -> bool:
        """Return whether all rows with equal `terms` are in one bucket."""
        known = frozenset(terms)
        return self.is_replicated or all(known & keys for keys in self.keys)

    def renamed(self, names: Mapping[Term, Term]) -> Sets:
        """Return the keys under new names, as keys that may be null."""
        return tuple(frozenset(names[term] for term in self.any_of(i) if term in names) for i in range(len(self.keys)))


def filtered(share: Distribution, equals: Iterable[Equality]) -> Distribution:
    """Return the distribution of the rows that satisfy the equalities: a term that equals a key is a key."""
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
    """Raise `NotPartitionableError` unless joining two relations per bucket gives the bucket's part of the join."""
    if left.is_replicated and right.is_replicated:
        return
    if left.is_replicated and kind in {"left", "full", "semi", "anti"}:
        raise NotPartitionableError(
            f"{what}: a {kind.upper()} JOIN keeps rows of its left side, which is replicated to every bucket"
        )
    if right.is_replicated and kind in {"right", "full"}:
        raise NotPartitionableError(
            f"{what}: a {kind.upper()} JOIN keeps rows of its right side, which is replicated to every bucket"
        )
    if not left.is_replicated and not right.is_replicated and not _are_colocated(left, right, equals):
        raise NotPartitionableError(f"{what} is not joined by the key")


def _are_colocated(left: Distribution, right: Distribution, equals: list[Equality]) -> bool:
    """Return whether matching rows are in one bucket, at each position of the key."""
    loose = filtered(left, equals)
    strict = filtered(left, [equal for equal in equals if not equal.nulls])
    return all(loose.keys[i] & right.keys[i] or strict.keys[i] & right.any_of(i) for i in range(len(left.keys)))


def both(left: Distribution, right: Distribution) -> Distribution:
    """Return the distribution of the pairs of rows of two relations."""
    return Distribution(
        left.is_replicated and right.is_replicated,
        tuple(a | b for a, b in zip(left.keys, right.keys, strict=True)),
        tuple(a | b for a, b in zip(left.nullable_keys, right.nullable_keys, strict=True)),
    )


def set_operation(
    left: Distribution, right: Distribution, columns: list[tuple[Term, Term, Term]], operation: str
) -> Distribution:
    """Return the distribution of a set operation; `columns` are its terms, each with those of the left and right side.

    `operation` is one of `union all`, `union`, `except`, `intersect`.
    """
    keeps_left = operation in {"except", "intersect"} and right.is_replicated and not left.is_replicated
    if left.is_replicated != right.is_replicated and not keeps_left:
        raise NotPartitionableError(f"{operation.upper()}: one of its sides is replicated to every bucket")
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
            f"{operation.upper()} compares rows of different buckets: the key is not among its columns"
        )
    return Distribution(left.is_replicated and right.is_replicated, keys, nullable_keys)
