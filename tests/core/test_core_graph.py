"""Topological order, errors and selections in small graphs."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import DefinitionError, RequestError
from pipeline.core.graph import Graph


@pytest.fixture
def graph(defined):
    """raw -> flights -> delays -> report; weather -> delays; flights -> MODEL."""
    return Graph.of(
        defined(report="delays", delays="flights weather", MODEL="flights", flights="raw", weather="", raw="", alone="")
    )


def test_inputs_come_before_what_reads_them(graph):
    assert graph.names == ("raw", "flights", "weather", "delays", "report", "MODEL", "alone")


@given(st.data())
def test_inputs_precede_their_readers_for_any_order_of_definitions(defined, data):
    names = [f"t{i}" for i in range(data.draw(st.integers(1, 12)))]
    reads = {name: " ".join(data.draw(st.sets(st.sampled_from(names[:i] or [""])))) for i, name in enumerate(names)}
    shuffled = {name: reads[name] for name in data.draw(st.permutations(names))}
    ordered = Graph.of(defined(**shuffled))
    assert sorted(ordered.names) == sorted(names)
    for definition in ordered.definitions:
        assert all(ordered.names.index(above) < ordered.names.index(definition.name) for above in definition.inputs)
        assert ordered.downstream(definition.name) == {n for n in names if definition.name in ordered.upstream(n)}


def test_a_long_chain_of_definitions(defined):
    chain = {f"t{i}": f"t{i + 1}" if i < 4999 else "" for i in range(5000)}
    graph = Graph.of(defined(**chain))
    assert graph.names[0] == "t4999"
    assert len(graph.upstream("t0")) == len(graph.downstream("t4999")) == 4999


@pytest.mark.parametrize(
    ("reads", "words"),
    [
        ({"a": "b", "b": "c", "c": "a"}, "form a cycle: a -> b -> c -> a; remove one of these inputs (flights.py:1)"),
        ({"x": "a", "a": "b", "b": "a"}, "form a cycle: a -> b -> a; remove one of these inputs (flights.py:2)"),
        ({"a": "flight", "flights": ""}, "table 'a' reads 'flight', which is neither a table nor a source; did you mean 'flights'? (flights.py:1)"),
        ({"a": "zzz", "flights": ""}, "neither a table nor a source; known: 'a', 'flights' (flights.py:1)"),
        ({"M": "zzz", "flights": ""}, "model 'M' reads 'zzz'"),
        ({"M": "", "a": "M"}, "table 'a' reads 'M', which is not a table; read a source or a table (flights.py:2)"),
        ({"flights": "", "Flights": ""}, "'Flights' is defined twice, first at flights.py:1 as 'flights' (names are case-insensitive); rename one (flights.py:2)"),
    ],
)  # fmt: skip
def test_invalid_graphs(defined, reads, words):
    with pytest.raises(DefinitionError, match=re.escape(words)):
        Graph.of(defined(**reads))


def test_duplicate_name_is_rejected(defined):
    with pytest.raises(DefinitionError, match=r"'a' is defined twice, first at flights.py:1; rename one"):
        Graph.of([*defined(a=""), *defined(a="")])


def test_repeated_definition_counts_once(defined):
    (only,) = defined(a="")
    assert Graph.of([only, only]).names == ("a",)


def test_an_empty_graph(defined):
    assert Graph.of(defined()).select([]) == frozenset()


def test_upstream_and_downstream(graph):
    assert graph.upstream("report") == {"delays", "flights", "weather", "raw"}
    assert graph.downstream("flights") == {"delays", "report", "MODEL"}
    assert graph.upstream("raw") == graph.downstream("alone") == frozenset()


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("", "raw flights weather delays report MODEL alone"),
        ("delays", "delays"),
        ("+delays", "delays flights weather raw"),
        ("flights+", "flights delays report MODEL"),
        ("+flights+", "raw flights delays report MODEL"),
        ("weather alone", "weather alone"),
        ("+flights weather+", "raw flights weather delays report"),
    ],
)
def test_selections(graph, patterns, names):
    assert graph.select(patterns.split()) == set(names.split())


@pytest.mark.parametrize("pattern", ["", "+", "++", "++flights", "flights++", "flights+weather", "+flights+weather"])
def test_invalid_selections(graph, pattern):
    with pytest.raises(RequestError, match=re.escape(f"invalid selection: got {pattern!r}; use `name`")):
        graph.select([pattern])


@pytest.mark.parametrize("pattern", ["flight", "+flight", "flight+"])
def test_selecting_an_unknown_name(graph, pattern):
    with pytest.raises(RequestError, match=r"'flight' is not defined; did you mean 'flights'\?"):
        graph.select([pattern])
