"""Computes the positions of the nodes of a graph and the routes of its lines: a pure function of the graph.

Layers are bands from left to right, each with one or more columns, so that every input is left of its readers. A line
that passes columns has its own lane in each of them (see `grid`), so it never crosses a box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.report.grid import Grid, Item, Node, Spacing

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A placed node with its upper left corner; it is as wide as its column."""

    name: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Line:
    """The route from an input to its reader: points at the edges of columns, joined by curves between columns."""

    source: str
    target: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Band:
    """The vertical band of a layer."""

    layer: int
    x: float
    width: float


@dataclass(frozen=True)
class GraphLayout:
    """The layout: boxes, lines and bands within `width` and `height`."""

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    bands: tuple[Band, ...]
    width: float
    height: float


def lay_out(nodes: Sequence[Node], spacing: Spacing | None = None) -> GraphLayout:
    """Place nodes, sorted so that inputs precede their readers, and route their lines. Deterministic."""
    space = Spacing() if spacing is None else spacing
    columns, layers = _columns(nodes)
    grid = Grid({node.name: node for node in nodes}, columns, space)
    order = grid.ordered()
    middles = grid.middles(order)
    sides, bands = _across(nodes, columns, layers, space)
    top = min((middles[i] - grid.height(i) / 2 for column in order for i in column), default=0.0)
    middles = {item: middle - top for item, middle in middles.items()}
    boxes = tuple(_box(node, sides[columns[node.name]], middles[node.name, columns[node.name]]) for node in nodes)
    lines = tuple(_line(source, n.name, columns, middles, sides) for n in nodes for source in n.inputs)
    height = max((middles[i] + grid.height(i) / 2 for column in order for i in column), default=0.0)
    width = max((band.x + band.width for band in bands), default=0.0)
    return GraphLayout(boxes, lines, bands, width, height)


def _columns(nodes: Sequence[Node]) -> tuple[dict[str, int], tuple[int, ...]]:
    """Return each node's column, and the layer of each column."""
    layer: dict[str, int] = {}
    depth: dict[str, int] = {}
    for node in nodes:
        layer[node.name] = max([node.layer, *(layer[name] for name in node.inputs)])
        same = [depth[name] + 1 for name in node.inputs if layer[name] == layer[node.name]]
        depth[node.name] = max(same, default=0)
    places = sorted({(layer[name], depth[name]) for name in layer})
    return {name: places.index((layer[name], depth[name])) for name in layer}, tuple(place[0] for place in places)


def _across(
    nodes: Sequence[Node], columns: Mapping[str, int], layers: Sequence[int], space: Spacing
) -> tuple[list[tuple[float, float]], tuple[Band, ...]]:
    """Return the left and right edge of each column, and the bands."""
    sides: list[tuple[float, float]] = []
    bands: dict[int, Band] = {}
    for column, layer in enumerate(layers):
        left = sides[-1][1] + space.columns if sides else space.band
        right = left + max(node.width for node in nodes if columns[node.name] == column)
        start = bands[layer].x if layer in bands else left - space.band
        bands[layer] = Band(layer, start, right + space.band - start)
        sides.append((left, right))
    return sides, tuple(bands.values())


def _box(node: Node, sides: tuple[float, float], middle: float) -> Box:
    return Box(node.name, sides[0], middle - node.height / 2, sides[1] - sides[0], node.height)


def _line(
    source: str,
    target: str,
    columns: Mapping[str, int],
    middles: Mapping[Item, float],
    sides: Sequence[tuple[float, float]],
) -> Line:
    start, end = columns[source], columns[target]
    points: list[Point] = [(sides[start][1], middles[source, start])]
    for column in range(start + 1, end):
        points += [(side, middles[source, column]) for side in sides[column]]
    points.append((sides[end][0], middles[target, end]))
    return Line(source, target, tuple(points))
