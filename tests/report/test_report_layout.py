"""The row-flow diagram: boxes do not overlap, and each line connects an input to its reader without crossing a box."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.grid import Grid, Node, Spacing, crossings
from pipeline.report.layout import lay_out


def node(name, layer, *inputs, width=100, height=40):
    return Node(name, layer, inputs, width, height)


@st.composite
def graphs(draw):
    nodes = []
    for i in range(draw(st.integers(1, 22))):
        inputs = draw(st.lists(st.sampled_from([n.name for n in nodes]), max_size=4, unique=True)) if nodes else []
        size = draw(st.sampled_from([(80, 42), (180, 58)]))
        nodes.append(Node(f"n{i}", draw(st.integers(0, 3)), tuple(inputs), *size))
    return nodes


def apart(a, b):
    return a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y


@given(graphs())
def test_boxes_do_not_overlap_and_are_within_the_diagram(nodes):
    layout = lay_out(nodes)
    assert [box.name for box in layout.boxes] == [n.name for n in nodes]
    assert all(apart(a, b) for a, b in combinations(layout.boxes, 2))
    for box in layout.boxes:
        assert box.x >= 0
        assert box.y >= -1e-6
        assert box.x + box.width <= layout.width
        assert box.y + box.height <= layout.height + 1e-6


@given(graphs())
def test_lines_connect_each_input_to_its_reader_and_cross_no_box(nodes):
    layout = lay_out(nodes)
    boxes = {box.name: box for box in layout.boxes}
    assert [(line.source, line.target) for line in layout.lines] == [(i, n.name) for n in nodes for i in n.inputs]
    for line in layout.lines:
        source, target = boxes[line.source], boxes[line.target]
        assert line.points[0] == pytest.approx((source.x + source.width, source.y + source.height / 2))
        assert line.points[-1] == pytest.approx((target.x, target.y + target.height / 2))
        for i, ((x, y), (to_x, to_y)) in enumerate(pairwise(line.points)):
            if i % 2:  # a lane is horizontal, and no box is on it
                assert y == to_y
                assert not [b for b in boxes.values() if b.x < to_x and b.x + b.width > x and b.y < y < b.y + b.height]
            else:  # a curve stays between two columns
                assert not [b for b in boxes.values() if b.x < to_x and b.x + b.width > x]


def test_layers_are_bands_and_inputs_are_left_of_their_readers():
    #   bronze | silver   | gold
    #     a ------ b -- c ---- d
    #     a ------------------ d
    layout = lay_out([node("a", 0), node("b", 1, "a"), node("c", 1, "b"), node("d", 2, "c", "a")])
    x = {box.name: box.x for box in layout.boxes}
    assert x["a"] < x["b"] < x["c"] < x["d"]
    assert [band.layer for band in layout.bands] == [0, 1, 2]
    assert all(left.x + left.width <= right.x for left, right in pairwise(layout.bands))
    assert layout.bands[1].x < x["b"] < x["c"] < layout.bands[1].x + layout.bands[1].width
    assert len(next(line for line in layout.lines if line.source == "a" and line.target == "d").points) == 6


def test_table_that_reads_a_later_layer_is_placed_after_it():
    layout = lay_out([node("a", 2), node("b", 0, "a")])
    assert layout.boxes[0].x < layout.boxes[1].x


def test_the_order_has_few_crossings():
    #   a     d      in this order both lines cross; the other order has none
    #   b     c
    nodes = [node("a", 0), node("b", 0), node("d", 1, "b"), node("c", 1, "a")]
    grid = Grid({n.name: n for n in nodes}, {"a": 0, "b": 0, "d": 1, "c": 1}, Spacing())
    assert crossings([[("a", 0), ("b", 0)], [("d", 1), ("c", 1)]], grid.segments()) == 1
    assert crossings(grid.ordered(), grid.segments()) == 0


def test_lines_of_one_source_share_a_lane():
    nodes = [node("a", 0), node("b", 1, "a"), node("c", 2, "a", "b"), node("d", 2, "a")]
    layout = lay_out(nodes)
    lanes = {line.points[1:3] for line in layout.lines if line.source == "a" and len(line.points) > 2}
    assert len(lanes) == 1


def test_diagram_without_nodes_is_empty():
    layout = lay_out([])
    assert (layout.boxes, layout.lines, layout.width, layout.height) == ((), (), 0.0, 0.0)
