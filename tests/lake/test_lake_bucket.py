"""The bucket of a lake: rights as a truth table, lifecycle rules, and plans that are applied once."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest

from pipeline import lake_policy
from pipeline.core.errors import DefinitionError, RequestError, StorageError
from pipeline.core.lake_policy import LakePolicy
from pipeline.lake.bucket.access import bucket_statements, is_allowed, role_statements
from pipeline.lake.bucket.changes import BucketAdministration
from pipeline.lake.bucket.desired import DesiredBucket, PlacedTable, place_of
from pipeline.lake.bucket.lifecycle import canonical, lifecycle_rules
from tests.rigs.aws import aws as aws  # noqa: PLC0414 - a fixture
from tests.rigs.aws import aws_endpoint as aws_endpoint  # noqa: PLC0414 - a fixture
from tests.rigs.command import environment

ROLES = {"analysts": "arn:aws:iam::1:role/analysts", "finance": "arn:aws:iam::1:role/finance"}
TIERS = ((timedelta(days=30), "STANDARD_IA"), (timedelta(days=90), "GLACIER_IR"))
TABLES = (
    PlacedTable("raw", "bronze/raw", LakePolicy(tiering=TIERS)),
    PlacedTable("orders", "gold/orders", LakePolicy(readers=("analysts", "finance"))),
    PlacedTable("salaries", "gold/salaries", LakePolicy(readers=("finance",), history=timedelta(days=30))),
)
BUCKET = DesiredBucket("acme", "shop/", "shop/prod", TABLES, ROLES)
OF_ORDERS = "arn:aws:s3:::acme/shop/gold/orders/"
OTHERS = ("analysts2", "arn:aws:iam::1:user/eve", "")
OBJECTS = {
    "orders": f"{OF_ORDERS}part-1.parquet",
    "orders log": f"{OF_ORDERS}_delta_log/0.json",
    "orders metadata": f"{OF_ORDERS}_headwater/1.json",
    "orders2": "arn:aws:s3:::acme/shop/gold/orders2/part-1.parquet",
    "salaries": "arn:aws:s3:::acme/shop/gold/salaries/part-1.parquet",
    "raw": "arn:aws:s3:::acme/shop/bronze/raw/part-1.parquet",
    "quarantine": "arn:aws:s3:::acme/shop/quarantine/orders/part-1.parquet",
    "outside": "arn:aws:s3:::acme/other/gold/orders/part-1.parquet",
}
READABLE = {
    "analysts": {"orders", "orders log"},
    "finance": {"orders", "orders log", "salaries"},
    **{name: set[str]() for name in OTHERS},
}
SECURE = {"aws:SecureTransport": "true"}


@pytest.mark.parametrize("role", READABLE)
@pytest.mark.parametrize("what", OBJECTS)
@pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:GetObjectVersion"])
def test_rights_in_the_policy_of_the_bucket(role, what, action):
    expected = action == "s3:GetObject" and what in READABLE[role]
    arn = ROLES.get(role, role)

    statements = bucket_statements(BUCKET)

    assert is_allowed(statements, action, OBJECTS[what], principal=arn, context=SECURE) == expected
    assert not is_allowed(statements, action, OBJECTS[what], principal=arn, context={"aws:SecureTransport": "false"})


@pytest.mark.parametrize("role", [*ROLES, None])
@pytest.mark.parametrize("what", OBJECTS)
@pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:PutBucketPolicy"])
def test_rights_in_the_policy_of_a_role(role, what, action):
    writes = action != "s3:PutBucketPolicy" and what != "outside"
    expected = writes if role is None else action == "s3:GetObject" and what in READABLE[role]

    assert is_allowed(role_statements(BUCKET, role), action, OBJECTS[what]) == expected


@pytest.mark.parametrize("role", [*ROLES, None])
@pytest.mark.parametrize(
    "prefix", ["shop/gold/orders/", "shop/gold/orders/_delta_log/", "shop/gold/salaries/", "shop/", "", "other/"]
)
def test_a_role_lists_its_tables_only(role, prefix):
    finance = prefix.startswith("shop/gold/")
    expected = {
        "analysts": prefix.startswith("shop/gold/orders/"),
        "finance": finance,
        None: prefix.startswith("shop/"),
    }
    context = {**SECURE, "s3:prefix": prefix}

    for statements in (role_statements(BUCKET, role), *([bucket_statements(BUCKET)] if role else [])):
        found = is_allowed(
            statements, "s3:ListBucket", "arn:aws:s3:::acme", principal=ROLES.get(role, ""), context=context
        )
        assert found == expected[role]
    assert not is_allowed(role_statements(BUCKET, role), "s3:ListBucket", "arn:aws:s3:::acme")


def test_a_key_of_kms_can_be_used_for_what_a_role_does():
    key = "arn:aws:kms:eu-central-1:1:key/k"
    bucket = replace(BUCKET, kms_key=key)

    for role, encrypts in (("analysts", False), (None, True)):
        assert is_allowed(role_statements(bucket, role), "kms:Decrypt", key)
        assert is_allowed(role_statements(bucket, role), "kms:GenerateDataKey", key) == encrypts
    assert not is_allowed(role_statements(BUCKET, "analysts"), "kms:Decrypt", key)


@pytest.mark.parametrize(
    "element", [{"NotAction": ["s3:GetObject"]}, {"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}]
)
def test_what_is_not_understood_is_not_ignored(element):
    statement = {"Effect": "Allow", "Action": "*", "Resource": "*", **element}

    with pytest.raises(ValueError, match="that is not understood"):
        is_allowed([statement], "s3:GetObject", "x", context={"aws:SourceIp": "10.0.0.1"})


@pytest.mark.parametrize("is_versioned", [True, False])
def test_no_rule_removes_live_objects(is_versioned):
    rules = {
        rule["ID"].removeprefix("headwater/shop/prod/"): rule
        for rule in lifecycle_rules(BUCKET, is_versioned=is_versioned)
    }

    assert all("Expiration" not in rule for rule in rules.values())
    assert rules["tier/raw"]["Filter"] == {"Prefix": "shop/bronze/raw/"}
    assert [(t["Days"], t["StorageClass"]) for t in rules["tier/raw"]["Transitions"]] == [
        (30, "STANDARD_IA"),
        (90, "GLACIER_IR"),
    ]
    assert ("noncurrent" in rules) == is_versioned
    if is_versioned:
        assert rules["noncurrent"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}  # the longest history


def test_rules_are_compared_after_the_defaults_of_a_store():
    rule = next(rule for rule in lifecycle_rules(BUCKET, is_versioned=False) if "Transitions" in rule)
    answered = {**rule, "Transitions": rule["Transitions"][::-1], "NoncurrentVersionTransitions": []}

    assert canonical(answered) == canonical(rule)
    assert canonical({**rule, "Status": "Disabled"}) != canonical(rule)


@pytest.mark.parametrize(
    ("tiering", "problem"),
    [
        ({"30 days": "GLACIER"}, "cannot be read from the storage class GLACIER, which must be restored first; use GLACIER_IR"),
        ({"30 days": "DEEP_ARCHIVE"}, "cannot be read from the storage class DEEP_ARCHIVE"),
        ({"30 days": "STANDARD"}, "unknown storage class in tiering=: got 'STANDARD'"),
        ({"29 days": "STANDARD_IA"}, "S3 needs an age of at least 30 days for this class: got 29 days for STANDARD_IA"),
        ({"36 hours": "GLACIER_IR"}, "the ages in tiering= must be whole days"),
        ({"0 days": "GLACIER_IR"}, "the ages in tiering= must be whole days"),
        ({"soon": "GLACIER_IR"}, "tiering= is not a duration: got 'soon'"),
    ],
)  # fmt: skip
def test_storage_classes_that_break_a_table_are_refused(tiering, problem):
    with pytest.raises(DefinitionError, match=problem):
        lake_policy(tiering=tiering)


def test_a_role_without_an_arn_is_refused():
    with pytest.raises(
        DefinitionError, match=r"readers= of table 'orders' names a role 'analysts', which .* does not have"
    ):
        replace(BUCKET, roles={})


@pytest.mark.parametrize("uri", ["/data/lake", "gs://bucket/lake", "lake"])
def test_only_s3_has_a_bucket(uri):
    with pytest.raises(RequestError, match="only a lake on S3 has a bucket with policies: got "):
        place_of(uri)
    assert (place_of("s3://b"), place_of("s3a://b/a/c/")) == (("b", ""), ("b", "a/c/"))


@pytest.fixture
def bucket(aws):
    """The administration of a new bucket, reached by plain HTTP."""
    name = f"b{uuid.uuid4().hex}"
    desired = replace(BUCKET, bucket=name, has_tls=False)
    administration = BucketAdministration.connect(desired, {"AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL": aws})
    administration.client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return administration


def names(changes):
    return [(change.action, change.kind, change.name.rpartition("/")[2]) for change in changes]


def test_a_plan_is_applied_once(bucket):
    changes = bucket.plan()
    assert {"public access", "policy statement", "lifecycle rule"} <= {change.kind for change in changes}
    bucket.apply(changes)

    assert bucket.plan() == ()
    bucket.apply(())


def test_drift_is_found_and_others_are_left_alone(bucket):
    client, name = bucket.client, bucket.desired.bucket
    theirs = {"ID": "theirs", "Filter": {"Prefix": "x/"}, "Status": "Enabled", "Expiration": {"Days": 3}}
    other = {
        "Sid": "Other",
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{name}/x",
    }
    client.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [theirs]})
    client.put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [other]}))
    bucket.apply(bucket.plan())

    rules = client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    statements = json.loads(client.get_bucket_policy(Bucket=name)["Policy"])["Statement"]
    assert "theirs" in {rule["ID"] for rule in rules}
    assert other in statements
    client.put_bucket_lifecycle_configuration(
        Bucket=name, LifecycleConfiguration={"Rules": [r for r in rules if "tier" not in r["ID"]]}
    )
    client.delete_public_access_block(Bucket=name)
    changed = [{**s, "Action": ["s3:*"]} if s["Sid"].endswith("ReadAnalysts") else s for s in statements]
    client.put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": changed}))

    drift = bucket.plan()

    assert names(drift) == [
        ("add", "public access", name),
        ("change", "policy statement", "HeadwaterShopProdReadAnalysts"),
        ("add", "lifecycle rule", "raw"),
    ]
    bucket.apply(drift)
    assert bucket.plan() == ()


def test_what_takes_something_away_is_marked(bucket):
    bucket.apply(bucket.plan())
    fewer = replace(bucket.desired, tables=TABLES[1:2])
    less = replace(bucket, desired=fewer)

    assert {(change.action, change.name.rpartition("/")[2], change.deletes) for change in less.plan()} == {
        ("change", "HeadwaterShopProdHideFinance", False),
        ("change", "HeadwaterShopProdListFinance", False),
        ("change", "HeadwaterShopProdReadFinance", False),
        ("remove", "raw", True),
    }
    less.client.put_bucket_versioning(Bucket=fewer.bucket, VersioningConfiguration={"Status": "Enabled"})
    assert [c.deletes for c in less.plan() if c.name.endswith("noncurrent")] == [True]


def test_a_bucket_that_changed_since_the_plan_is_not_touched(bucket):
    changes = bucket.plan()
    bucket.apply(changes)

    with pytest.raises(StorageError, match="the bucket has changed since the plan; plan again: headwater lake plan"):
        bucket.apply(changes)


def test_a_missing_bucket_is_named(bucket):
    gone = replace(bucket, desired=replace(bucket.desired, bucket="no-such-bucket"))

    with pytest.raises(
        StorageError, match=r"the configuration of bucket 'no-such-bucket' cannot be read: got .*; create it, or"
    ):
        gone.plan()


def test_a_store_without_transitions_says_so(s3):
    name = f"b{uuid.uuid4().hex}"
    options = s3.storage("").options
    administration = BucketAdministration.connect(replace(BUCKET, bucket=name, has_tls=False), options)
    administration.client.create_bucket(Bucket=name)

    with pytest.raises(StorageError, match=r"the configuration of bucket '.*' cannot be (read|changed): got "):
        administration.apply(administration.plan())


TOML = """
[project]
name = "shop"
definitions = "shop.py"
[env.dev]
lake = "s3://{bucket}/shop"
[env.dev.storage]
AWS_REGION = "eu-central-1"
AWS_ENDPOINT_URL = "{endpoint}"
[env.dev.roles]
analysts = "arn:aws:iam::1:role/analysts"
"""
SHOP = """
from pipeline import generate, lake_policy, source, sql
raw = source(generate({"id": "i"}, count=3), schema={"id": "bigint"})
orders = sql("select id from raw", key="id", layer="gold")
shared = lake_policy("gold", readers="analysts")
"""


def test_commands_plan_apply_and_show(tmp_path, bucket, aws, headwater_command):
    name = bucket.desired.bucket
    (tmp_path / "headwater.toml").write_text(TOML.format(bucket=name, endpoint=aws))
    (tmp_path / "shop.py").write_text(SHOP)

    def run(*words: str) -> tuple[int, str]:
        done = headwater_command.run("lake", *words, cwd=tmp_path, env=environment(), timeout=60)
        return done.returncode, done.stdout + done.stderr

    code, text = run("plan")
    assert code == 3
    assert "+ policy statement HeadwaterShopDevReadAnalysts" in text
    assert run("apply")[0] == 0
    assert run("plan") == (0, "the bucket is as declared\n")
    assert run("access", "--json") == (0, '{\n  "analysts": [\n    "orders"\n  ]\n}\n')
    assert "s3:GetObject" in run("access", "--role", "analysts")[1]
    code, text = run("access", "--role", "analyst")
    assert (code, "the environment has no role 'analyst'; did you mean 'analysts'" in text) == (1, True)

    (tmp_path / "shop.py").write_text(SHOP.replace("readers=", "cluster_by="))
    code, text = run("apply")
    assert (code, "changes would take something away: got HeadwaterShopDev" in text) == (1, True)
    assert run("apply", "--yes")[0] == 0
    assert run("plan") == (0, "the bucket is as declared\n")
