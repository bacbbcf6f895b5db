"""What libraries of boosted trees fit: encoded rows, in rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

Library = Literal["lightgbm", "xgboost"]
AfterRound = Callable[[int, Callable[[], bytes]], None]
"""Is called after each round with the number of rounds, and a function that returns the trees so far."""


@dataclass(frozen=True)
class BoostingRows:
    """Encoded rows: features as float64 with NaN for null, labels as numbers, weights, and which features are codes."""

    features: np.ndarray[Any, Any]
    label: np.ndarray[Any, Any]
    weight: np.ndarray[Any, Any] | None
    names: tuple[str, ...]
    categorical: tuple[int, ...]
    group_sizes: tuple[int, ...] = ()
    """For a ranking: how many of the rows, which are in the order of their groups, each group has."""

    def part(self, rows: slice) -> BoostingRows:
        """Return some of the rows."""
        weight = None if self.weight is None else self.weight[rows]
        return BoostingRows(self.features[rows], self.label[rows], weight, self.names, self.categorical)


@dataclass(frozen=True)
class Rounds:
    """How many trees to fit, by which parameters of the library."""

    count: int
    params: Mapping[str, object]
    stop_after: int = 0
    """Stop if so many rounds bring no progress on the newest rows; 0 never stops early."""
    start: bytes | None = None
    """Trees to continue from."""


class Grower(Protocol):
    """Fits trees to encoded rows."""

    @property
    def library(self) -> Library:
        """The library that does it."""

    @property
    def workers(self) -> int:
        """How many workers do it together."""

    def grow(self, rows: BoostingRows, newest: BoostingRows | None, rounds: Rounds, after: AfterRound | None) -> bytes:
        """Return the trees in the format of the library."""
