"""A look, its definitions, and what changed since an earlier one; the system is a small one in memory."""

from __future__ import annotations

import itertools
import json

import pyarrow as pa

from pipeline.core.discovery import DiscoveredObject, DiscoveryLimits, ReaderCall
from pipeline.core.errors import SourceError
from pipeline.discovery.definitions import module
from pipeline.discovery.look import changes_since, look_at

ORDERS = pa.table({"id": [1, 2], "email": ["a@b.de", "c@d.de"], "updated_at": ["2026-01-01", "2026-01-02"]})


class Memory:
    uri = "memory://"

    def __init__(self, **tables):
        self.tables = tables

    def objects(self, limits):
        calls = {name: ReaderCall("sqlite", ("shop.db", name)) for name in self.tables}
        found = [DiscoveredObject(name, "table", call, rows=2) for name, call in calls.items()]
        return found[: limits.objects + 1]

    def sample(self, discovered, limits):
        table = self.tables[discovered.name]
        if table is None:
            raise SourceError("it is locked")
        return table.slice(0, limits.rows)


LIMITS = DiscoveryLimits()


def look(limits=LIMITS, **tables):
    return look_at(Memory(**tables), limits, itertools.count().__next__)


def changes(before, after):
    return changes_since(json.loads(json.dumps(look(**before).document())), look(**after).document())


def test_an_object_that_cannot_be_read_has_the_reason():
    found = look(a=None, b=ORDERS, c=pa.table({}))
    assert [each.problem for each in found.objects] == ["it is locked", "", "there are no rows"]


def test_limits():
    tables = {f"t{n}": ORDERS for n in range(5)}
    found = look(DiscoveryLimits(objects=3, time_s=2, rows=1), **tables)
    assert [each.problem for each in found.objects] == ["", "", "not looked at within 2 s"]
    assert found.objects[0].sample.rows == 1
    assert found.notes == ("there are more than 3 objects; the others are left out",)


def test_definitions_can_be_run_and_say_what_to_decide():
    odd = pa.table({'a"b': [{"x": 1}], "c\\d\n": [1.5]})
    text = module(look(orders=ORDERS, orders_=ORDERS, odd=odd, locked=None).objects)
    names: dict[str, object] = {}
    exec(text, names)  # noqa: S102 - what is tested
    assert {"raw_orders", "raw_orders_2", "raw_odd", "raw_locked"} <= names.keys()
    assert names["raw_orders"].schema.as_dict() == {"id": "BIGINT", "email": "VARCHAR", "updated_at": "DATE"}
    assert names["raw_odd"].schema.names == ('a"b', "c\\d\n")
    for line in (
        "# the key may be id: unique in 2 sampled rows",
        "# the event time may be updated_at",
        '# cursor="updated_at" reads only what is new',
        '        "email": "varchar",  # likely: e-mail address (by its name, and 100% of 2 values look like one)',
        "# not looked at: it is locked",
    ):
        assert line in text


def test_names_of_sources():
    names = [
        "public.orders",
        "in/sales/year=*/month=*/*.csv",
        "orders-*.csv.gz",
        "shop.db:items",
        "2026.csv",
        "topic-a",
    ]
    objects = look(**dict.fromkeys(names, ORDERS)).objects
    assert [each.variable() for each in objects] == [
        "raw_orders",
        "raw_sales",
        "raw_orders",
        "raw_items",
        "raw_rows",
        "raw_topic_a",
    ]


def test_what_changed():
    wider = ORDERS.set_column(0, "id", pa.array(["x", "y"])).append_column("phone", pa.array(["+49 30 123456", "1"]))
    assert changes({"a": ORDERS}, {"a": ORDERS}) == ()
    assert changes({"a": ORDERS, "b": ORDERS}, {"a": wider, "c": ORDERS}) == (
        "new table: c",
        "table is gone: b",
        "a: new column 'phone', column 'id' was BIGINT, now VARCHAR",
        "a: column 'phone' may contain personal data: phone number (possible)",
    )
    assert changes({"a": ORDERS}, {"a": None}) == ("a: the problem was none, now it is locked",)
