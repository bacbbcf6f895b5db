"""Topics as code: which changes are found, and that a cluster of three brokers with an authorizer makes them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from confluent_kafka import Producer

from benchmarks.kafka import Cluster
from pipeline import topic
from pipeline.connectors.kafka.topics import Change, ExistingTopic, TopicDefinition, changes, replica_assignment
from pipeline.core.errors import DefinitionError, SettingsError, SourceError
from pipeline.project import Workspace, load
from pipeline.project.topics import apply_topics, plan_topics

WANTED = topic("payments", partitions=6, replicas=3, retention="7 days", acls={"User:reports": "read"})
CONFIGS = {
    "cleanup.policy": "delete",
    "min.insync.replicas": "2",
    "retention.ms": "604800000",
    "unclean.leader.election.enable": "false",
}
ACCESS = frozenset({("User:reports", "READ"), ("User:reports", "DESCRIBE")})
AS_WANTED = ExistingTopic(6, 3, {**CONFIGS, "segment.bytes": "1073741824"}, ACCESS)


def test_a_declaration_is_safe_by_default():
    assert WANTED.configs == CONFIGS
    assert topic("a", partitions=1, replicas=1).configs["min.insync.replicas"] == "1"
    assert topic("a", partitions=1, compaction=True).configs["cleanup.policy"] == "compact"
    both = topic("a", partitions=1, compaction=True, retention=timedelta(hours=1)).configs
    assert (both["cleanup.policy"], both["retention.ms"]) == ("compact,delete", "3600000")
    assert topic("a", partitions=1, retention="forever").configs["retention.ms"] == "-1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a b"}, r"a topic's name has up to 249 letters.*got 'a b' \(.*test_kafka_topics\.py:\d+\)"),
        ({"partitions": 0}, "topic 'a' must have at least one partition and one replica: got partitions=0, replicas=3"),
        ({"min_in_sync": 4}, "min_in_sync of topic 'a' must be between 1 and its replicas: got 4 of 3"),
        (
            {"acls": {"reports": "read"}},
            "acls of topic 'a' map principals to 'read', 'write' or 'all': got 'reports': 'read'",
        ),
        ({"acls": {"User:a": "see"}}, "got 'User:a': 'see'; write for example"),
        ({"retention": "soon"}, "retention"),
        ({"retention": timedelta(0)}, "retention= must be positive"),
    ],
)
def test_invalid_declarations_are_refused(options, message):
    with pytest.raises(DefinitionError, match=message):
        topic(**{"name": "a", "partitions": 1, **options})


def existing(**configs: str) -> ExistingTopic:
    return replace(AS_WANTED, configs={**AS_WANTED.configs, **configs})


@pytest.mark.parametrize(
    ("before", "what", "warning", "is_destructive"),
    [
        (replace(AS_WANTED, partitions=4), "partitions: 4 to 6", "keys move to other partitions", False),
        (replace(AS_WANTED, replicas=1), "replicas: 1 to 3", "", False),
        (replace(AS_WANTED, replicas=5), "replicas: 5 to 3", "if more brokers fail than before, records are lost", False),
        (existing(**{"retention.ms": "-1"}), "retention.ms: -1 to 604800000", "records beyond the new limit are deleted", True),
        (existing(**{"retention.ms": "1000"}), "retention.ms: 1000 to 604800000", "", False),
        (existing(**{"cleanup.policy": "compact"}), "cleanup.policy: compact to delete", "records beyond the retention are deleted", True),
        (existing(**{"min.insync.replicas": "3"}), "min.insync.replicas: 3 to 2", "a write is acknowledged by fewer brokers", False),
        (existing(**{"unclean.leader.election.enable": "true"}), "unclean.leader.election.enable: true to false", "", False),
        (replace(AS_WANTED, access=frozenset()), "allow User:reports to describe", "", False),
        (replace(AS_WANTED, access=ACCESS | {("User:x", "READ")}), "no longer allow User:x to read", "clients of User:x may stop working", False),
    ],
)  # fmt: skip
def test_each_difference_is_a_change_with_its_effect(before, what, warning, is_destructive):
    first = changes(WANTED, before)[0]
    assert (first.what, first.is_destructive) == (what, is_destructive)
    assert first.warning.startswith(warning)
    assert bool(first.warning) == bool(warning)


def test_what_is_as_declared_does_not_change():
    assert changes(WANTED, AS_WANTED) == ()
    assert changes(WANTED, existing(**{"cleanup.policy": "delete"})) == ()
    unmanaged = topic("payments", partitions=6, retention="7 days")
    assert changes(unmanaged, AS_WANTED) == ()
    either = topic("a", partitions=1, compaction=True, retention="1 day")
    other_order = {**either.configs, "cleanup.policy": "delete,compact"}
    assert changes(either, ExistingTopic(1, 3, other_order)) == ()


def test_compaction_warns_about_earlier_records():
    compacted = topic("payments", partitions=6, compaction=True)
    [change] = changes(compacted, AS_WANTED)
    assert change == Change(
        "payments",
        "cleanup.policy: delete to compact",
        "config",
        ("cleanup.policy", "compact"),
        "earlier records of each key are deleted, and records without a key are refused",
        is_destructive=True,
    )


def test_partitions_cannot_be_removed():
    with pytest.raises(
        DefinitionError, match="has more partitions than declared, and Kafka cannot remove them: got 8 instead of 6"
    ):
        changes(WANTED, replace(AS_WANTED, partitions=8))


def test_replicas_stay_where_they_are():
    assert replica_assignment([2], 3, [1, 2, 3], 0) == [2, 1, 3]
    assert replica_assignment([3, 1, 2], 2, [1, 2, 3], 1) == [3, 1]
    assert replica_assignment([1], 2, [1, 2, 3], 2) == [1, 3]


DEFINITIONS = """\
from pipeline import files, source, topic

raw = source(files("data/*.csv"))
payments = topic({name!r}, partitions={partitions}, replicas={replicas}, {more})
"""


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with Cluster(tmp_path_factory.mktemp("kafka"), 3, settings) as cluster:
        yield cluster


@pytest.fixture
def declared(tmp_path, three, monkeypatch):
    """Write a project with a topic, and return its workspace."""
    monkeypatch.setenv("HEADWATER_KAFKA_SERVERS", three.bootstrap)
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')

    def write(partitions=2, replicas=1, more="", name="payments"):
        text = DEFINITIONS.format(partitions=partitions, replicas=replicas, more=more, name=name)
        (tmp_path / "shop.py").write_text(text)
        return Workspace(load(tmp_path))

    return write


def apply(workspace: Workspace) -> list[str]:
    """Make all changes; return them, and check that none is left."""
    plans = plan_topics(workspace)
    apply_topics(workspace, plans)
    made = [change.what for plan in plans for change in plan.changes]
    ends = time.monotonic() + 120
    while time.monotonic() < ends:  # a moved replica is complete after its records are copied
        if not any(plan.changes for plan in plan_topics(workspace)):
            return made
        time.sleep(0.2)
    raise AssertionError([plan.changes for plan in plan_topics(workspace)])


def test_a_cluster_becomes_as_declared(declared, three, tmp_path):
    schema = {"type": "record", "name": "Payment", "fields": [{"name": "id", "type": "long"}]}
    (tmp_path / "payment.avsc").write_text(json.dumps(schema))
    made = apply(declared(2, 1, "acls={'User:reports': 'read'}, schema='payment.avsc'"))
    assert made == [
        "create: 2 partitions, 1 replicas, cleanup.policy=delete, min.insync.replicas=1, unclean.leader.election.enable=false",
        "allow User:reports to describe",
        "allow User:reports to read",
        "register the schema payment.avsc",
    ]
    producer = Producer({"bootstrap.servers": three.bootstrap, "log_level": 0})
    for number in range(10):
        producer.produce("payments", b"x", key=f"{number}")
    assert producer.flush(20) == 0

    schema["fields"].append({"name": "note", "type": "string", "default": ""})
    (tmp_path / "payment.avsc").write_text(json.dumps(schema))
    made = apply(declared(4, 3, "retention='1 day', acls={'User:ingest': 'write'}, schema='payment.avsc'"))
    assert made == [
        "partitions: 2 to 4",
        "replicas: 1 to 3",
        "min.insync.replicas: 1 to 2",
        "retention.ms: -1 to 86400000",
        "allow User:ingest to describe",
        "allow User:ingest to write",
        "no longer allow User:reports to describe",
        "no longer allow User:reports to read",
        "register version 2 of the schema payment.avsc",
    ]
    three.kill(2)
    try:
        producer.produce("payments", b"after a broker failed")
        assert producer.flush(120) == 0  # others take over its partitions within seconds on an idle machine
    finally:
        three.start(2)

    schema["fields"][0]["type"] = "string"
    (tmp_path / "payment.avsc").write_text(json.dumps(schema))
    with pytest.raises(
        DefinitionError, match="the schema of topic 'payments' is not compatible with its earlier versions"
    ):
        plan_topics(declared(4, 3, "schema='payment.avsc'"))


@pytest.mark.proof
def test_partitions_that_were_just_added_get_their_replicas_too(declared):
    """A broker may not know them yet. Without the wait, some keep one replica in one of three rounds."""
    for number in range(20):
        name = f"grows{number}"
        apply_topics(small := declared(1, 1, name=name), plan_topics(small))
        apply_topics(large := declared(40, 2, name=name), plan_topics(large))
        ends = time.monotonic() + 60
        while any(plan.changes for plan in plan_topics(large)):
            assert time.monotonic() < ends, plan_topics(large)
            time.sleep(0.2)


def test_what_the_brokers_cannot_do_is_an_error(declared, tmp_path, monkeypatch):
    with pytest.raises(SourceError, match=r"the Kafka brokers rejected the request: got .*[Rr]eplication"):
        apply_topics(w := declared(2, 9, name="many"), plan_topics(w))
    with pytest.raises(DefinitionError, match="the schema of topic 'other' cannot be read"):
        plan_topics(declared(2, 1, "schema='none.avsc'", "other"))
    with pytest.raises(DefinitionError, match="the type of the schema of topic 'other' is unknown"):
        plan_topics(declared(2, 1, "schema='none.txt'", "other"))
    monkeypatch.delenv("HEADWATER_KAFKA_SERVERS")
    with pytest.raises(
        SettingsError,
        match="the brokers of topic 'payments' are unknown; pass servers=, or set HEADWATER_KAFKA_SERVERS",
    ):
        plan_topics(declared(2, 1))
    (tmp_path / "shop.py").write_text("from pipeline import files, source, topic\nraw = source(files('*.csv'))\n" + "".join(f"{name} = topic('t', partitions=1)\n" for name in "ab"))  # fmt: skip
    with pytest.raises(DefinitionError, match=r"topic 't' is declared twice, first at .*shop\.py:3; remove one"):
        load(tmp_path)


@pytest.mark.proof
def test_a_declaration_is_shown_and_applied_on_the_command_line(declared, headwater_command, tmp_path):
    from tests.rigs.command import environment  # noqa: PLC0415 - used here only

    declared(1, 1, "retention='2 days'", "orders")

    def run(*words, code=0):
        process = headwater_command.run("topics", *words, cwd=tmp_path, env=environment(), timeout=60)
        assert process.returncode == code, process.stderr
        return process

    assert "+ create: 1 partitions" in run("plan", code=3).stdout
    assert "1 change made" in run("apply").stdout
    assert run("plan").stdout == "orders: as declared\n"
    (tmp_path / "shop.py").write_text((tmp_path / "shop.py").read_text().replace("2 days", "1 day"))
    refused = run("apply", code=1)
    assert "! retention.ms: 172800000 to 86400000" in refused.stdout
    assert "warning: records beyond the new limit are deleted" in refused.stderr
    assert json.loads(run("plan", "--json", code=3).stdout)[0]["changes"][0]["is_destructive"]
    run("apply", "--yes")
    assert run("plan").stdout == "orders: as declared\n"


def test_topics_of_one_project_are_found(declared):
    assert [type(each) for each in declared().project.topics] == [TopicDefinition]
