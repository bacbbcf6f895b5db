"""Names of columns that a table of the lake cannot hold together."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.connectors.column_names import same_name
from pipeline.core.errors import Place, SourceError


def require_distinct(names: Sequence[str], place: Place, do: str) -> None:
    """Raise `SourceError` if two names are equal, or differ only in case."""
    twice = same_name(names)
    if twice is not None:
        raise SourceError(
            "the names of two columns are equal, or differ only in case",
            got=f"{twice[0]!r} and {twice[1]!r}",
            do=do,
            place=place,
        )
