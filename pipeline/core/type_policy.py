"""What happens to values that the type of their column cannot represent, for each column of a source."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import get_args

from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.sources import NewTypes


@dataclass(frozen=True)
class TypePolicy:
    """The handling of such values: of all columns, or of the named ones, while `discard_row` is that of the others."""

    every: NewTypes = "discard_row"
    columns: tuple[tuple[str, NewTypes], ...] = ()

    @classmethod
    def of(cls, new_types: NewTypes | Mapping[str, NewTypes], place: Place) -> TypePolicy:
        """Return the policy of `new_types=`; raise `DefinitionError` for an unknown value."""
        given = new_types.values() if isinstance(new_types, Mapping) else (new_types,)
        for value in given:
            if value not in get_args(NewTypes):
                known = did_you_mean(value, get_args(NewTypes))
                raise DefinitionError("unknown value of new_types=", got=repr(value), do=known, place=place)
        if isinstance(new_types, Mapping):
            return cls(columns=tuple(sorted(new_types.items())))
        return cls(new_types)

    def of_column(self, name: str) -> NewTypes:
        """Return the handling of the values of a column."""
        return dict(self.columns).get(name, self.every)

    def has(self, action: NewTypes) -> bool:
        """Return whether this is the handling of some column."""
        return action in self.actions

    @property
    def actions(self) -> frozenset[NewTypes]:
        """The handlings that occur."""
        return frozenset({self.every, *(action for _, action in self.columns)})

    def columns_with(self, action: NewTypes, names: Collection[str]) -> tuple[str, ...]:
        """Return those of the columns that have a handling."""
        return tuple(name for name in names if self.of_column(name) == action)

    @property
    def fingerprint(self) -> tuple[str, ...]:
        """The parts that affect the stored rows; with any other policy, such a run would have failed."""
        if not self.columns:
            return () if self.every in {"discard_row", "freeze"} else (self.every,)
        return tuple(f"{name}={action}" for name, action in self.columns if action not in {"discard_row", "freeze"})


DEFAULT_TYPE_POLICY = TypePolicy()
