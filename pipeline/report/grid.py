"""Orders nodes within columns and assigns their heights, so that lines between neighboring columns rarely cross.

A line that passes a column gets a lane there, like a thin node. The order within columns is determined by sweeps that
sort by the mean position of neighbors (Sugiyama et al., 1981), the heights by least squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.report.scales import spread

Item = tuple[str, int]
"""The name of a node and the column of the node or of a lane of its lines."""
Joined = tuple[Item, Item]
SWEEPS = 12


@dataclass(frozen=True)
class Node:
    """A node to place: its name, its layer (counted from the left), its inputs, and its size in pixels."""

    name: str
    layer: int
    inputs: tuple[str, ...]
    width: float
    height: float


@dataclass(frozen=True)
class Spacing:
    """Distances in pixels: between columns, between neighbors in a column, the lane height, and the band padding."""

    columns: float = 46
    rows: float = 12
    lane: float = 2
    band: float = 12


@dataclass(frozen=True)
class Grid:
    """Nodes in columns, with lanes for nodes whose readers are further right than the next column."""

    nodes: Mapping[str, Node]
    columns: Mapping[str, int]
    space: Spacing

    def height(self, item: Item) -> float:
        """Return the height of a node or a lane."""
        name, column = item
        return self.nodes[name].height if self.columns[name] == column else self.space.lane

    def segments(self) -> tuple[Joined, ...]:
        """Return the connections between neighboring columns, from left to right; lines from one node share a lane."""
        segments: dict[Joined, None] = {}
        for node in self.nodes.values():
            end = self.columns[node.name]
            for source in node.inputs:
                lane = [(source, column) for column in range(self.columns[source], end)]
                for part in pairwise([*lane, (node.name, end)]):
                    segments[part] = None
        return tuple(segments)

    def ordered(self) -> list[list[Item]]:
        """Return each column from top to bottom, in the order with the fewest crossings among all sweeps."""
        joined = self.segments()
        items = dict.fromkeys([*self.columns.items(), *(item for pair in joined for item in pair)])
        order = [[i for i in items if i[1] == c] for c in range(max(self.columns.values(), default=-1) + 1)]
        best, fewest = [list(column) for column in order], crossings(order, joined)
        for sweep in range(SWEEPS):
            _sweep(order, joined, forward=sweep % 2 == 0)
            if (count := crossings(order, joined)) < fewest:
                best, fewest = [list(column) for column in order], count
        return best

    def middles(self, order: Sequence[Sequence[Item]]) -> dict[Item, float]:
        """Return the vertical center of each item: close to the mean of its neighbors, without overlaps."""
        near: dict[Item, list[Item]] = {item: [] for column in order for item in column}
        for left, right in self.segments():
            near[right].append(left)
            if self.columns[left[0]] == left[1]:  # a lane keeps the height at which it arrives
                near[left].append(right)
        gaps = [[self._gap(a, b) for a, b in pairwise(column)] for column in order]
        middles: dict[Item, float] = {}
        for column, between in zip(order, gaps, strict=True):
            middles.update(zip(column, spread([0.0] * len(column), between), strict=True))
        for sweep in range(SWEEPS):
            for c in range(len(order)) if sweep % 2 == 0 else reversed(range(len(order))):
                targets = [_mean([middles[n] for n in near[item]], middles[item]) for item in order[c]]
                middles.update(zip(order[c], spread(targets, gaps[c]), strict=True))
        return middles

    def _gap(self, above: Item, below: Item) -> float:
        return (self.height(above) + self.height(below)) / 2 + self.space.rows


def crossings(order: Sequence[Sequence[Item]], joined: Sequence[Joined]) -> int:
    """Return the number of pairs of segments that cross for this order of the columns."""
    place = {item: i for column in order for i, item in enumerate(column)}
    count = 0
    for column in range(len(order) - 1):
        pairs = [(place[a], place[b]) for a, b in joined if a[1] == column]
        count += sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for i, a in enumerate(pairs) for b in pairs[i + 1 :])
    return count


def _sweep(order: list[list[Item]], joined: Sequence[Joined], *, forward: bool) -> None:
    """Sort each column by the mean position of its neighbors in the previous column (or the next one, going back)."""
    pairs = [(b, a) if forward else (a, b) for a, b in joined]
    along = range(1, len(order)) if forward else reversed(range(len(order) - 1))
    for c in along:
        beside = order[c - 1 if forward else c + 1]
        place = {item: i / max(len(beside), 1) for i, item in enumerate(beside)}
        mean = {
            item: _mean([place[other] for this, other in pairs if this == item and other in place], i / len(order[c]))
            for i, item in enumerate(order[c])
        }
        order[c].sort(key=mean.__getitem__)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
