"""The row flow chart: a box per definition, and a line per input whose width shows the number of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from markupsafe import Markup

from pipeline.core.definitions import LAYERS
from pipeline.core.errors import quantity
from pipeline.report.facts import TableSummary
from pipeline.report.grid import Node, Spacing
from pipeline.report.layout import Band, Box, GraphLayout, Line, lay_out
from pipeline.report.svg import element, picture, shortened, text, width_of
from pipeline.report.words import count

BANDS = (*LAYERS, "model", "sink")
NAME_PX, NOTE_PX = 12.0, 11.0
"""Font sizes in a box, in pixels; they must match the style sheet."""
LETTERS = 26
CAPTION = 40
ROOM = 1184
"""The page width in pixels; the chart is stretched to it unless the columns would be too far apart."""
WIDEST = 84
PAD = 12


def flow_picture(tables: Sequence[TableSummary]) -> Markup:
    """Draw a graph; definitions must be sorted so that inputs precede their readers."""
    rows = {t.definition.name: t.rows or 0 for t in tables}
    layout = fitted([_node(t) for t in tables])
    by_name = {t.definition.name: t for t in tables}
    return picture(
        layout.width,
        layout.height + CAPTION + 2 * PAD,
        f"Row flow: {quantity(len(tables), 'definition')}, sources on the left, derived tables on the right.",
        *(_band(band, layout) for band in layout.bands),
        *(_line(line, rows[line.source]) for line in layout.lines),
        *(_box(by_name[box.name], box) for box in layout.boxes),
        class_="flow",
    )


def fitted(nodes: Sequence[Node]) -> GraphLayout:
    """Return a layout of the page width, if the maximum gap between columns allows it."""
    close = lay_out(nodes)
    gaps = len({box.x for box in close.boxes}) - 1
    if gaps < 1 or close.width >= ROOM:
        return close
    space = Spacing()
    return lay_out(nodes, replace(space, columns=min(space.columns + (ROOM - close.width) / gaps, WIDEST)))


def losses(table: TableSummary) -> str:
    """Return how many rows the last step quarantined or dropped, as text; empty if none."""
    if table.built is None:
        return ""
    flow = table.built.flow
    parts = (
        (flow.quarantined, "quarantined"),
        (flow.dropped, "dropped"),
        (flow.superseded, "superseded"),
        (flow.late, "late"),
    )
    return ", ".join(f"{count(rows)} {word}" for rows, word in parts if rows)


def state(table: TableSummary) -> str:
    """Return the state of a definition: `absent`, `refused`, `failed`, `same` (up to date) or `fresh`."""
    if not table.is_stored:
        return "same"
    if table.built is None and (table.step is None or table.is_streamed):
        return "absent"
    if table.step is not None and table.step.has_failed:
        return "failed"
    if table.built is not None and table.built.decision == "refused":
        return "refused"
    return "fresh" if table.step is not None and not table.step.is_unchanged else "same"


def summary(table: TableSummary) -> str:
    """Return the second line of a box: its row count, or what the run did."""
    if not table.is_stored:
        return "not stored"
    if state(table) == "absent":
        return "does not exist yet"
    if table.step is not None and table.step.has_failed:
        return table.step.outcome
    if table.is_table:
        return f"{quantity(table.rows or 0, 'row')}{', streamed' if table.is_streamed else ''}"
    return table.built.decision if table.built is not None else "up to date"


def _node(table: TableSummary) -> Node:
    name, notes = shortened(table.definition.name, LETTERS), (summary(table), losses(table))
    width = max(width_of(name, NAME_PX), *(width_of(note, NOTE_PX) for note in notes)) + 24
    return Node(table.definition.name, BANDS.index(table.band), table.definition.inputs, width, 58 if notes[1] else 42)


def _band(band: Band, layout: GraphLayout) -> Markup:
    name = BANDS[band.layer]
    height = layout.height + CAPTION + 2 * PAD
    strip = element("rect", x=band.x, y=0, width=band.width, height=height, rx=8, class_="band")
    return element("g", strip, text((band.x + 12, 22), name.upper(), "caption"), class_=f"of-{name}")


def _box(table: TableSummary, box: Box) -> Markup:
    x, y, name = box.x, box.y + CAPTION, table.definition.name
    parts = [
        element("title", f"{name} ({getattr(table.definition, 'kind', '')}): {_tooltip(table)}"),
        element("rect", x=x, y=y, width=box.width, height=box.height, rx=5, class_="box"),
        element("rect", x=x, y=y + 6, width=3, height=box.height - 12, class_="edge"),
        text((x + 12, y + 18), shortened(name, LETTERS), "node"),
        text((x + 12, y + 34), summary(table), "note"),
    ]
    lost = losses(table)
    if lost:
        parts.append(text((x + 12, y + 50), lost, "lost"))
    return element("g", *parts, class_=f"of-{table.band} {state(table)}{' marked' if lost else ''}")


def _line(line: Line, rows: int) -> Markup:
    points = [(x, y + CAPTION) for x, y in line.points]
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for i, ((x, y), (to_x, to_y)) in enumerate(pairwise(points)):
        if i % 2:  # through a column, straight in its lane
            path += f"H{to_x:.1f}"
        else:
            middle = (x + to_x) / 2
            path += f"C{middle:.1f} {y:.1f} {middle:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"
    title = element("title", f"{line.source} → {line.target}: {quantity(rows, 'row')}")
    return element("path", title, d=path, class_="way", stroke_width=1 + 0.5 * math.log10(rows + 1))


def _tooltip(table: TableSummary) -> str:
    parts = [summary(table), losses(table), "" if table.step is None else f"{table.step.decision}, {table.step.reason}"]
    return "; ".join(part for part in parts if part)
