"""Definitions: their places, checks, names and fingerprints; schemas and manifests."""

from __future__ import annotations

import inspect
import json
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.cursors import Cursor, Gap
from pipeline.core.definitions import Action, Expectation, caller, checks, names
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.functions import table
from pipeline.core.schema import Schema, compare
from pipeline.core.source_declaration import source
from pipeline.core.staging import Manifest, RowCounts, StagedFile, manifest_id_of

HERE = Place("flights.py", 3)


@dataclass(frozen=True)
class Nothing:
    """A reader without data."""

    fingerprint: str = "nothing"


def line():
    return inspect.currentframe().f_back.f_lineno


def expect(*names):
    return [Expectation(name, "true", Action.WARN) for name in names]


def test_the_place_of_a_definition_is_its_line():
    here, definition = line(), source(Nothing())
    assert definition.place == Place(__file__, here)


def test_the_place_of_a_multiline_definition_is_its_first_line():
    here = line()
    definition = source(
        Nothing(),
        key="id",
    )
    assert definition.place == Place(__file__, here + 1)


def test_project_can_be_named_like_a_package_of_headwater(tmp_path):
    for folder in ("pipeline", "ml"):
        file = tmp_path / folder / "flights.py"
        file.parent.mkdir()
        file.write_text(
            textwrap.dedent("""
            from pipeline.core.definitions import caller
            def helper():
                return caller()
            place = helper()
        """)
        )
        space = {}
        exec(compile(file.read_text(), str(file), "exec"), space)  # noqa: S102 - the file just written
        assert space["place"] == Place(str(file), 4)


def test_the_caller_is_the_nearest_line_outside():
    assert (caller(), line()) == (Place(__file__, line()), line())


@pytest.mark.parametrize(
    ("expectations", "words"),
    [
        (expect("a", "b", "a"), "expectation 'a' is defined twice; choose another name"),
        (expect("key_is_unique"), "expectation 'key_is_unique' has a name that is reserved for keys"),
        (expect("key_is_not_null"), "expectation 'key_is_not_null' has a name that is reserved for keys"),
        (expect(*map(str, range(61))), "at most 60 expectations: got 61; combine conditions with `and`"),
    ],
)
def test_invalid_expectations(expectations, words):
    with pytest.raises(DefinitionError, match=words) as caught:
        checks(expectations, HERE)
    assert caught.value.place == HERE
    with pytest.raises(DefinitionError, match=words):
        source(Nothing(), expect=expectations)


def test_sixty_expectations_are_allowed():
    assert len(checks(expect(*map(str, range(60))), HERE)) == 60


@pytest.mark.parametrize(("value", "expected"), [(None, ()), ("a", ("a",)), (["a", "b"], ("a", "b")), ("", ("",))])
def test_names_accept_one_name_or_several(value, expected):
    assert names(value) == expected


def test_a_definition_keeps_its_first_name():
    assert source(Nothing()).named("a").named("b").name == "a"


def test_fingerprint_depends_on_everything_that_affects_the_rows():
    first = source(Nothing(), schema={"a": "bigint"}, key="a", expect=expect("x"))
    others = [
        source(Nothing("other"), schema={"a": "bigint"}, key="a", expect=expect("x")),
        source(Nothing(), schema={"a": "integer"}, key="a", expect=expect("x")),
        source(Nothing(), key="a", expect=expect("x")),
        source(Nothing(), schema={"a": "bigint"}, expect=expect("x")),
        source(Nothing(), schema={"a": "bigint"}, key="a"),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 6
    described = source(Nothing(), schema={"a": "BIGINT"}, key=["a"], expect=expect("x"), description="words")
    assert described.named("b").fingerprint == first.fingerprint
    divided = source(Nothing(), schema={"a": "bigint"}, key="a", expect=expect("x"), partition_by=["a", "bucket(4, a)"])
    assert divided.fingerprint == first.fingerprint


def test_a_function_is_a_table():
    @table(key="id")
    def flights(raw: pa.Table, weather: pa.Table) -> pa.Table:
        """One row per flight."""
        return raw, weather

    assert (flights.name, flights.inputs, flights.description) == ("flights", ("raw", "weather"), "One row per flight.")
    assert flights(1, weather=2) == (1, 2)
    assert flights.place.file == __file__


def test_a_table_function_without_options_needs_no_parentheses():
    @table
    def plain(rows: pa.Table) -> pa.Table: ...

    @table()
    def called(rows: pa.Table) -> pa.Table: ...

    assert (plain.name, plain.inputs, plain.layer) == ("plain", called.inputs, called.layer)


@pytest.mark.parametrize("other", ["select 1", partial(print), Path])
def test_a_decorator_is_for_functions(other):
    with pytest.raises(
        DefinitionError, match=r"table is a decorator for functions: got .*; write @table above"
    ) as error:
        table(other)
    assert str(error.value.place).startswith(__file__)


def test_invalid_table_functions():
    with pytest.raises(DefinitionError, match="table 'none' has no inputs; name a parameter after a source or a table"):

        @table()
        def none() -> pa.Table: ...

    with pytest.raises(
        DefinitionError, match="'bare': parameter 'rows' has no supported type annotation: got no annotation"
    ):

        @table()
        def bare(rows): ...

    with pytest.raises(DefinitionError, match="'odd': parameter 'rows' has no supported type annotation: got int"):

        @table()
        def odd(rows: int): ...

    with pytest.raises(DefinitionError, match="'both' mixes types of frames: got arrow, polars; annotate all"):

        @table()
        def both(rows: pa.Table, more: "pl.DataFrame"): ...  # noqa: F821, UP037 - read as text


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"a": "INTEGER"}, {"a": "INTEGER"}, ""),
        ({"a": "INTEGER", "b": "DATE"}, {"b": "DATE", "a": "INTEGER"}, ""),
        ({"a": "INTEGER"}, {"a": "INTEGER", "b": "DATE"}, "new column 'b'"),
        ({"a": "INTEGER", "b": "DATE"}, {"a": "INTEGER"}, "column 'b' is missing"),
        ({"a": "INTEGER"}, {"a": "BIGINT"}, "column 'a' was INTEGER, now BIGINT"),
        ({"a": "INTEGER", "b": "DATE"}, {"a": "BIGINT", "c": "DATE"}, "new column 'c', column 'b' is missing, column 'a' was INTEGER, now BIGINT"),
    ],
)  # fmt: skip
def test_differences_between_schemas(before, now, words):
    change = compare(Schema.of(before), Schema.of(now))
    assert str(change) == words
    assert bool(change) == bool(words)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("integer", "INTEGER"),
        ("decimal(10, 2)[]", "DECIMAL(10, 2)[]"),
        ("timestamp with time zone", "TIMESTAMP WITH TIME ZONE"),
        ('struct(a integer, "B c" varchar, n struct(Date date))[]', 'STRUCT(a INTEGER, "B c" VARCHAR, n STRUCT(Date DATE))[]'),
        ("struct (a integer)", "STRUCT (a INTEGER)"),
        ("map(varchar, struct(k integer))", "MAP(VARCHAR, STRUCT(k INTEGER))"),
        ("enum('a', 'b''c')", "ENUM('a', 'b''c')"),
        ("union(num integer, str varchar)", "UNION(num INTEGER, str VARCHAR)"),
    ],
)  # fmt: skip
def test_types_are_in_upper_case_and_names_inside_them_are_not(written, expected):
    assert Schema.of({"x": written}).as_dict() == {"x": expected}


def test_columns_can_be_selected_in_another_order():
    schema = Schema.of({"a": "DATE", "b": "BIGINT", "c": "DOUBLE"})
    assert schema.select(("c", "a")) == Schema.of({"c": "DOUBLE", "a": "DATE"})


COUNTS = st.integers(0, 2**62)
STAGED = st.builds(
    StagedFile,
    path=st.text(),
    size_bytes=COUNTS,
    rows=COUNTS,
    partition=st.dictionaries(st.text(), st.none() | st.text()),
    stats=st.text(),
)
FLOWS = st.builds(RowCounts, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
MANIFESTS = st.builds(
    Manifest,
    table=st.text(),
    run_id=st.text(),
    fingerprint=st.text(),
    mode=st.sampled_from(["append", "overwrite"]),
    inputs=st.dictionaries(st.text(), COUNTS),
    cursor=st.none() | st.builds(Cursor, st.text(), st.dictionaries(st.text(), st.lists(COUNTS | st.text()))),
    gaps=st.lists(st.builds(Gap, st.text(), COUNTS, COUNTS)).map(tuple),
    flow=FLOWS,
    checks=st.dictionaries(st.text(), COUNTS),
    quarantined=st.lists(STAGED).map(tuple),
    seconds=st.floats(allow_nan=False),
    at=st.text(),
)


@given(MANIFESTS)
def test_manifest_survives_json(manifest):
    text = manifest.to_json()
    assert Manifest.from_json(text) == manifest
    assert Manifest.from_json(text).to_json() == text
    assert 0 <= manifest.manifest_id < 2**63


@given(MANIFESTS)
def test_the_order_of_keys_does_not_change_the_manifest_id(manifest):
    parts = json.loads(manifest.to_json())
    parts["inputs"] = dict(reversed(parts["inputs"].items()))
    parts["checks"] = dict(reversed(parts["checks"].items()))
    assert Manifest.from_json(json.dumps(parts)).manifest_id == manifest.manifest_id


@given(FLOWS, FLOWS, FLOWS)
def test_addition_of_row_counts_is_associative(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert a + RowCounts() == a
    assert (a + b).rows_in == a.rows_in + b.rows_in


def test_a_manifest_id_is_a_hash_of_the_text():
    assert manifest_id_of("a") == int("ca978112ca1bbdca", 16) >> 1
