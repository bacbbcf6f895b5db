"""Feature services: the features that a model takes, from one or several feature views."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ml.features.on_demand import OnDemand
from pipeline.core.definitions import caller
from pipeline.core.errors import DefinitionError, Place

_NAMED = re.compile(r"\s*(\w+)(?:\s+as\s+(\w+))?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Features:
    """Columns of a feature view, and which rows of it belong to a labelled row."""

    view: str
    columns: tuple[tuple[str, str], ...]
    """The columns with their names in the result; empty for all features of the view, under their names."""
    on: tuple[tuple[str, str], ...]
    """Entity columns of the view with the columns of the labelled rows, where the names differ."""
    prefix: str
    at: str
    """The name of a column with the event time of the row that was taken; empty for none."""
    strict: bool
    """Whether only rows that were available before the time count, and not those of the time itself."""
    place: Place = field(compare=False)


@dataclass(frozen=True)
class FeatureService:
    """The features that a model takes."""

    features: tuple[Features, ...]
    computed: tuple[OnDemand, ...] = ()
    """Features that are computed from those and from the columns of a request."""


def features(
    view: str, *columns: str, on: Mapping[str, str] | None = None, prefix: str = "", at: str = "", strict: bool = False
) -> Features:
    """Select columns of a feature view: `name`, or `name as other`; without any, all of its features.

    `on` maps entity columns of the view to columns of the labelled rows, if the names differ. `prefix` is put before each
    name. `at` adds a column with the event time of the row that was taken. With `strict`, a row counts only after the time
    at which it became available, and not at it: use it if the view is computed from the events that are labelled.

    Raises `DefinitionError` for a column that is not a name.
    """
    place, named = caller(), []
    for text in columns:
        match = _NAMED.fullmatch(text)
        if match is None:
            do = "write 'name' or 'name as other'"
            raise DefinitionError("features(…) takes names of columns", got=repr(text), do=do, place=place)
        named.append((match[1], match[2] or match[1]))
    return Features(view, tuple(named), tuple((on or {}).items()), prefix, at, strict, place)


def feature_service(*selected: Features | OnDemand) -> FeatureService:
    """Define the features that one or several models take, in training and when they predict."""
    if not selected:
        raise DefinitionError("a feature service has no features", do="pass features(…)", place=caller())
    return service_of(selected)


def service_of(selected: FeatureService | Sequence[Features | OnDemand]) -> FeatureService:
    """Return features as a service, which may have none."""
    if isinstance(selected, FeatureService):
        return selected
    stored = tuple(each for each in selected if isinstance(each, Features))
    return FeatureService(stored, tuple(each for each in selected if isinstance(each, OnDemand)))
