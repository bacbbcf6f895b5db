"""Quotas as code: which changes are found, that brokers enforce them, and that the commands show and make them."""

from __future__ import annotations

import json
import time
import uuid

import pytest

from pipeline import quota
from pipeline.connectors.kafka.quotas import quota_changes
from pipeline.connectors.kafka.topic_admin import topic_admin
from pipeline.connectors.kafka.topics import Change
from pipeline.core.errors import DefinitionError, SettingsError, SourceError
from pipeline.project import Workspace, load
from pipeline.project.topics import apply_topics, plan_topics


def test_each_difference_is_a_change_with_its_effect():
    wanted = quota(user="me", producer_bytes_s=1_000_000, consumer_bytes_s=500)
    existing = {"consumer_byte_rate": 100.0, "request_percentage": 50.0, "connection_creation_rate": 3.0}
    assert list(quota_changes(wanted, existing)) == [
        Change("quota of user me", "consumer_byte_rate: 100 to 500", "quota", ("consumer_byte_rate", 500.0)),
        Change(
            "quota of user me",
            "producer_byte_rate: no limit to 1000000",
            "quota",
            ("producer_byte_rate", 1_000_000.0),
            "clients beyond the limit are slowed down",
        ),
        Change("quota of user me", "request_percentage: 50 to no limit", "quota", ("request_percentage", None)),
    ]
    assert list(quota_changes(wanted, wanted.limits)) == []
    assert quota(user="*", client_id="c", request_percent=10).name == "quota of user *, client-id c"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"producer_bytes_s": 1}, r"a quota needs a user or a client; pass user= or client_id= \(.*quotas\.py:\d+\)"),
        ({"user": "a", "consumer_bytes_s": 0}, "the limits of a quota must be positive: got consumer_byte_rate: 0"),
    ],
)
def test_invalid_declarations_are_refused(options, message):
    with pytest.raises(DefinitionError, match=message):
        quota(**options)


DEFINITIONS = """from pipeline import generate, quota, source
rows = source(generate({"id": "i"}, count=1), schema={"id": "bigint"})
"""


def project(folder, text):
    (folder / "headwater.toml").write_text('[project]\nname = "quotas"\ndefinitions = "shop.py"\n')
    (folder / "shop.py").write_text(f"{DEFINITIONS}{text}\n")
    return Workspace(load(folder))


def test_limits_become_as_declared(kafka, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_KAFKA_SERVERS", kafka.bootstrap)
    name = uuid.uuid4().hex[:8]
    text = f'a = quota(client_id="{name}", producer_bytes_s=1e6, consumer_bytes_s=2e6)\nb = quota(user="*", client_id="{name}", request_percent=50)'
    workspace = project(tmp_path, text)
    plans = plan_topics(workspace)
    assert [len(plan.changes) for plan in plans] == [2, 1]
    apply_topics(workspace, plans)
    assert [plan.changes for plan in plan_topics(workspace)] == [(), ()]
    wanted = quota(client_id=name, consumer_bytes_s=3e6, servers=kafka.bootstrap)
    with topic_admin(wanted, kafka.bootstrap) as admin:
        assert admin.limits(wanted) == {"producer_byte_rate": 1e6, "consumer_byte_rate": 2e6}
        admin.set_limits(wanted, quota_changes(wanted, admin.limits(wanted)))
        until = time.monotonic() + 30
        while admin.limits(wanted) != {"consumer_byte_rate": 3e6}:  # brokers show it a moment later
            assert time.monotonic() < until
            time.sleep(0.05)
        admin.set_limits(wanted, [])
        refused = [Change(wanted.name, "", "quota", ("unknown_limit", 1.0))]
        with pytest.raises(SourceError, match=r"the brokers refuse the quota of client-id .*: got .*unknown_limit"):
            admin.set_limits(wanted, refused)


def test_the_commands_show_and_make_the_changes(kafka, headwater_command, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_KAFKA_SERVERS", kafka.bootstrap)
    name = uuid.uuid4().hex[:8]
    project(tmp_path, f'a = quota(user="{name}", producer_bytes_s=1000)')
    from tests.rigs.command import environment  # noqa: PLC0415 - used here only

    def run(*words, code=0):
        process = headwater_command.run("topics", *words, cwd=tmp_path, env=environment(), timeout=60)
        assert process.returncode == code, process.stderr
        return process.stdout

    [plan] = json.loads(run("plan", "--json", code=3))
    assert plan["changes"][0]["what"] == "producer_byte_rate: no limit to 1000"
    assert "1 change made" in run("apply")
    assert run("plan") == f"quota of user {name}: as declared\n"


def test_quotas_that_are_declared_twice_or_without_brokers_are_errors(tmp_path, monkeypatch):
    monkeypatch.delenv("HEADWATER_KAFKA_SERVERS", raising=False)
    with pytest.raises(SettingsError, match="the brokers of the quota of user a are unknown; pass servers="):
        plan_topics(project(tmp_path, 'a = quota(user="a", producer_bytes_s=1)'))
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(DefinitionError, match="the quota of user a is declared twice, first at"):
        project(again, 'a = quota(user="a", producer_bytes_s=1)\nb = quota(user="a", producer_bytes_s=2)')
