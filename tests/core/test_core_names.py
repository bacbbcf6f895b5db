"""Options that take names take one name as a text too, or refuse it; a text is never a sequence of letters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import pipeline
from pipeline.core.errors import DefinitionError, HeadwaterError, Place
from pipeline.core.merge_options import MergeOptions, merge_of

HERE = Place("test")
history = partial(
    pipeline.dimension, "select k, v, w, at from t", key="k", sequence_by="at", stored_as_scd_type=2
)  # each call below is on one line, where the definition keeps its place
CALLS: dict[str, tuple[Callable[..., Any], str]] = {
    "dimension track_history_column_list": (lambda **o: history(**o).transform, "v"),
    "dimension track_history_except_column_list": (lambda **o: history(**o).transform, "v"),
    "event_hubs metadata": (partial(pipeline.event_hubs, "h", namespace="n.example", connection="env:X"), "key"),
    "kafka metadata": (partial(pipeline.kafka, "t", servers="h:1"), "key"),
    "kinesis metadata": (partial(pipeline.kinesis, "s", region="r"), "key"),
    "mqtt metadata": (partial(pipeline.mqtt, "t", client_id="c"), "topic"),
    "nats_stream metadata": (partial(pipeline.nats_stream, "s"), "key"),
    "pubsub metadata": (partial(pipeline.pubsub, "projects/p/subscriptions/s"), "id"),
    "rabbitmq_queue metadata": (partial(pipeline.rabbitmq_queue, "q"), "id"),
    "rabbitmq_stream metadata": (partial(pipeline.rabbitmq_stream, "s"), "headers"),
    "redis_stream metadata": (partial(pipeline.redis_stream, "s"), "key"),
    "server_sent_events metadata": (partial(pipeline.server_sent_events, "https://h.example/e"), "id"),
    "webhook metadata": (partial(pipeline.webhook, "w", unsigned=True), "id"),
}
REFUSED: dict[str, Callable[..., Any]] = {
    "adbc columns": partial(pipeline.adbc, "d", "u", table="t"),
    "delta_sharing allowed_hosts": partial(pipeline.delta_sharing, "p.share", "sh", "s", "t"),
    "dimension hierarchies": lambda hierarchies: history(hierarchies={"h": hierarchies}),
    "duckdb_file columns": partial(pipeline.duckdb_file, "f", table="t"),
    "files lists": partial(pipeline.files, "x.xml", rows="r"),
    "files names": partial(pipeline.files, "x.csv", header=True),
    "files null_values": partial(pipeline.files, "x.csv"),
    "graphql allowed_hosts": partial(pipeline.graphql, "https://h.example", "query { a { b } }", rows="a"),
    "mysql columns": partial(pipeline.mysql, "mysql://h/d", table="t"),
    "odata allowed_hosts": partial(pipeline.odata, "https://h.example", "e"),
    "odata select": partial(pipeline.odata, "https://h.example", "e"),
    "postgres columns": partial(pipeline.postgres, "postgresql://h/d", table="t"),
    "rest allowed_hosts": partial(pipeline.rest, "https://h.example"),
    "sql_database columns": partial(pipeline.sql_database, "oracle://h/d", table="t"),
    "sqlite columns": partial(pipeline.sqlite, "f", table="t"),
}


@pytest.mark.parametrize("option", CALLS)
def test_one_name_may_be_a_text(option):
    define, name = CALLS[option]
    parameter = option.split()[1]
    assert define(**{parameter: name}) == define(**{parameter: (name,)})


@pytest.mark.parametrize("option", REFUSED)
def test_a_text_is_refused_where_a_list_is_needed(option):
    with pytest.raises(HeadwaterError) as raised:
        REFUSED[option](**{option.split()[1]: "ab"})
    assert "'ab'" in str(raised.value) or "at least two levels" in raised.value.problem


@pytest.mark.parametrize(
    "option", [name for name, kind in MergeOptions.__annotations__.items() if "Sequence" in str(kind)]
)
def test_one_name_of_auto_cdc_may_be_a_text(option):
    given = {"sequence_by": "at", "stored_as_scd_type": 2}
    assert merge_of(("id",), {**given, option: "v1"}, HERE) == merge_of(("id",), {**given, option: ["v1"]}, HERE)


def test_the_key_is_found_in_a_text():
    assert merge_of(("i", "d"), {"sequence_by": "at", "except_column_list": "id"}, HERE) is not None
    with pytest.raises(DefinitionError, match="except_column_list= must not contain the key: got 'id'"):
        merge_of(("id",), {"sequence_by": "at", "except_column_list": "id"}, HERE)


def test_no_option_is_left_out():
    taking = set()
    for name in pipeline.__all__:
        value = getattr(pipeline, name)
        for parameter in inspect.signature(value).parameters.values() if inspect.isfunction(value) else ():
            kind = str(parameter.annotation)
            if any(f"{each}[str" in kind for each in ("Sequence", "tuple", "Collection", "Iterable")):
                taking.add((f"{name} {parameter.name}", kind.startswith("str | ")))
    others = {"files pattern", "snowflake_options row_access"}  # a text is one of what they take
    assert {option for option, is_text in taking if not is_text} - others <= REFUSED.keys()
    assert REFUSED.keys() <= {option for option, _ in taking}
