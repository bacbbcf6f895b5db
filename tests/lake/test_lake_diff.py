"""Differences between versions of a table, by key and as multisets."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pipeline.lake.diff import ColumnDifference, diff

KEYED = "select * from (values {}) as t(id, name, amount)"


def test_rows_are_matched_by_key(writer):
    w = writer()
    first = w.write(KEYED.format("(1, 'a', 1.5), (2, 'b', 2.5), (3, null, 'nan'::double), (null, 'n', 0)"))
    second = w.write(
        KEYED.format("(1, 'a', 1.5), (2, 'B', 3.5), (3, null, 'nan'::double), (null, 'n', 1), (5, 'e', 5)"),
        "r2",
        "overwrite",
        first,
    )
    third = w.write(KEYED.format("(7, 'g', 7)"), "r3", "append", second)

    found = diff(w.table, (first, third), ("id",), rows=20)

    assert (found.before, found.after, found.key) == (0, 2, ("id",))
    assert (found.inserted, found.deleted, found.updated) == (2, 0, 2)
    assert found.changed == {"amount": 2, "name": 1}
    assert found.columns == ()
    assert [tuple(row.values()) for row in found.rows.to_pylist()] == [
        ("update_preimage", ["name", "amount"], 2, "b", 2.5),
        ("update_postimage", ["name", "amount"], 2, "B", 3.5),
        ("insert", [], 5, "e", 5.0),
        ("insert", [], 7, "g", 7.0),
        ("update_preimage", ["amount"], None, "n", 0.0),
        ("update_postimage", ["amount"], None, "n", 1.0),
    ]
    back = diff(w.table, (third, first), ("id",), rows=1)
    assert (back.inserted, back.deleted, back.updated, back.rows.num_rows) == (0, 2, 2, 1)
    same = diff(w.table, (third, third), ("id",))
    assert (same.inserted, same.deleted, same.updated, same.rows) == (0, 0, 0, None)


def test_without_a_key_rows_are_counted(writer):
    w = writer()
    first = w.write("select unnest([1, 1, 2, null]) as a, [1, 2] as l")
    second = w.write("select unnest([1, 2, 2, null, null]) as a, [1, 2] as l", "r2", "overwrite", first)
    found = diff(w.table, (first, second), rows=9)
    assert (found.inserted, found.deleted, found.updated, found.key) == (2, 1, 0, ())
    rows = [(row["_change_type"], row["a"]) for row in found.rows.to_pylist()]
    assert sorted(rows, key=str) == [("delete", 1), ("insert", 2), ("insert", None)]


def test_files_of_both_versions_are_not_read(writer):
    from pathlib import Path  # noqa: PLC0415 - only here

    w = writer()
    first = w.write("select 1 as id")
    second = w.write("select 2 as id", "r2", "append", first)
    Path(first.files[0].uri).write_bytes(b"")
    assert diff(w.table, (first, second), ("id",)).inserted == 1


def test_changes_of_columns_are_named(writer):
    w = writer()
    first = w.write("select 1 as id, 2 as amount, 'x' as gone")
    second = w.write("select 1 as id, 2.5::double as amount, date '2026-01-01' as day", "r2", "overwrite", first)
    found = diff(w.table, (first, second), ("id",), rows=2)
    assert found.columns == (
        ColumnDifference("amount", "INTEGER", "DOUBLE"),
        ColumnDifference("day", None, "DATE"),
        ColumnDifference("gone", "VARCHAR", None),
    )
    assert (found.updated, found.changed) == (1, {"amount": 1})
    assert found.rows.to_pylist()[0] == {
        "_change_type": "update_preimage",
        "_changed": ["amount"],
        "id": 1,
        "amount": "2",
        "day": None,
        "gone": "x",
    }
    third = w.write("select 1 as there, 2 as kind, 3 as before", "r3", "overwrite", second)
    without = diff(w.table, (first, third), ("id",), rows=3)
    assert (without.key, without.inserted, without.deleted) == ((), 0, 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("partition_by", [(), ("p",)])
def test_a_difference_equals_that_of_the_rows(writer, seed, partition_by):
    dice = random.Random(seed)  # noqa: S311 - test data
    w = writer(partition_by=partition_by)

    def rows() -> dict[int, tuple]:
        return {key: (dice.choice(["a", "b", None]), f"p{key % 3}") for key in range(40) if dice.random() < 0.6}

    def written(rows: dict[int, tuple], seen=None):
        values = ", ".join(f"({k}, {'null' if v is None else repr(v)}, {p!r})" for k, (v, p) in rows.items())
        return w.write(f"select * from (values {values}) as t(k, v, p)", f"r{dice.random()}", "overwrite", seen)

    one, other = rows(), rows()
    first = written(one)
    second = written(other, first)
    by_key = diff(w.table, (first, second), ("k",))
    assert by_key.inserted == len(other.keys() - one.keys())
    assert by_key.deleted == len(one.keys() - other.keys())
    assert by_key.updated == sum(one[key] != other[key] for key in one.keys() & other.keys())
    counted = diff(w.table, (first, second))
    ours, theirs = (Counter((key, *row) for key, row in each.items()) for each in (one, other))
    assert (counted.inserted, counted.deleted) == ((theirs - ours).total(), (ours - theirs).total())


def test_columns_may_have_any_name(writer):
    w = writer()
    columns = "as there, 2 as kind, 3 as before, 4 as changed, 5 as name, 6 as row, {} as r, 8 as o"
    first = w.write(f"select 1 {columns.format(7)}")
    second = w.write(f"select 1 {columns.format(0)}", "r2", "overwrite", first)
    assert diff(w.table, (first, second), ("there",), rows=2).changed == {"r": 1}
    assert diff(w.table, (first, second), rows=2).inserted == 1


def test_a_table_of_changes_has_changes_too(writer):
    w = writer()
    first = w.write("select 1 as id, 'insert' as _change_type, 2 as _changed")
    second = w.write("select 1 as id, 'delete' as _change_type, 2 as _changed, 3 as added", "r2", "overwrite", first)
    found = diff(w.table, (first, second), ("id",), rows=2)
    assert (found.updated, found.changed) == (1, {"_change_type": 1})
    assert found.rows.schema.names == ["__change_type", "__changed", "id", "_change_type", "_changed", "added"]
    back = diff(w.table, (second, first), ("id",), rows=1)
    assert back.rows.schema.names == ["__change_type", "__changed", "id", "_change_type", "_changed", "added"]
