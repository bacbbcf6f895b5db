"""Levels of compatibility: which of two schemas must be able to read data of the other, and with which versions a new one is compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pipeline.schema_registry.schemas import ParsedSchema

LEVELS = ("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")
T = TypeVar("T")


def versions_to_check(level: str, versions: Sequence[T]) -> Sequence[T]:
    """Return the versions, of those that are not deleted, that a new one is compared with: the last, or all of them."""
    if level == "NONE":
        return ()
    return versions if level.endswith("_TRANSITIVE") else versions[-1:]


def problems_with(level: str, new: ParsedSchema, earlier: Sequence[tuple[int, ParsedSchema]]) -> list[str]:
    """Return why a schema is not compatible with earlier versions, which are given with their numbers."""
    problems = []
    for version, old in earlier:
        found = []
        if level.startswith(("BACKWARD", "FULL")):
            found += [f"reading version {version}: {problem}" for problem in new.problems(old)]
        if level.startswith(("FORWARD", "FULL")):
            found += [f"reading the new schema with version {version}: {problem}" for problem in old.problems(new)]
        problems += found
    return problems
