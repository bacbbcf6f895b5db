"""How a lake on S3 is accessed: credentials, encryption, and what is said when the store refuses."""

from __future__ import annotations

import json
import os
import re
import uuid
from pathlib import Path

import pytest

from pipeline.core.errors import OutcomeUnknownError, SettingsError, StorageError, StorageUnavailableError
from pipeline.core.object_store_options import s3_client_options
from pipeline.core.s3_access import s3_access
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest
from pipeline.kernel.engine import connect
from pipeline.lake import Lake, Storage
from tests.rigs.aws import aws as aws  # noqa: PLC0414 - the fixture
from tests.rigs.aws import aws_endpoint as aws_endpoint  # noqa: PLC0414 - likewise
from tests.rigs.delta_log import WrittenLog
from tests.rigs.proxy import proxied
from tests.rigs.refusing_store import Refusal, RefusingStore, SignedRequest, refusing_store
from tests.rigs.weed import BUCKET, credentials

QUICK = {"AWS_ALLOW_HTTP": "true", "max_retries": "0"}


@pytest.fixture
def environment(monkeypatch, tmp_path) -> Path:
    """An environment without variables of AWS, except those that name two files with profiles; return their folder."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n[profile etl]\nregion = eu-central-1\n")
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = DEFAULT\naws_secret_access_key = s\n"
        "[etl]\naws_access_key_id = ETL\naws_secret_access_key = s\naws_session_token = token\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


@pytest.fixture(scope="module")
def refusing():
    with refusing_store() as store:
        yield store


def at(store: RefusingStore, **options: str) -> Storage:
    return Storage("s3://acme/lake", {**QUICK, "AWS_ENDPOINT_URL": store.endpoint, **options})


def identities(store: RefusingStore, storage: Storage) -> set[SignedRequest]:
    """Return with which identities the two clients ask: delta-rs for a table, fsspec for a file."""
    asked = []
    for ask in (lambda: Lake(storage).table("silver", "t").version(), lambda: storage.read_bytes("a")):
        store.requests.clear()
        with pytest.raises(StorageError):
            ask()
        assert store.requests
        asked += store.requests
    return set(asked)


# -- credentials


KEY = {"access_key_id": "OPTION", "secret_access_key": "s", "region": "us-east-2"}
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "AROUND", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "ap-east-1"}


@pytest.mark.parametrize(
    ("options", "variables", "identity"),
    [
        (KEY, ENVIRONMENT, SignedRequest("OPTION", "us-east-2", None)),
        (
            {**KEY, "aws_session_token": "mine"},
            {"AWS_SESSION_TOKEN": "x"},
            SignedRequest("OPTION", "us-east-2", "mine"),
        ),
        ({"aws_profile": "etl"}, ENVIRONMENT, SignedRequest("ETL", "ap-east-1", "token")),
        ({"aws_profile": "etl"}, {}, SignedRequest("ETL", "eu-central-1", "token")),
        ({}, {**ENVIRONMENT, "AWS_SESSION_TOKEN": "x"}, SignedRequest("AROUND", "ap-east-1", "x")),
        ({}, {"AWS_PROFILE": "etl"}, SignedRequest("ETL", "eu-central-1", "token")),
        ({}, {}, SignedRequest("DEFAULT", "eu-west-1", None)),
    ],
    ids=["options", "token", "profile before environment", "profile", "environment", "AWS_PROFILE", "default profile"],
)
@pytest.mark.usefixtures("environment")
def test_both_clients_use_the_same_credentials(monkeypatch, refusing, options, variables, identity):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert identities(refusing, at(refusing, **options)) == {identity}


def test_renewed_credentials_are_used(environment, monkeypatch, refusing):
    storage = at(refusing)
    for key in ("FIRST", "SECOND"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        assert {request.access_key for request in identities(refusing, storage)} == {key}
    assert environment.is_dir()


def test_an_open_table_uses_renewed_credentials(aws, monkeypatch):
    import boto3  # noqa: PLC0415 - an extra

    bucket = f"acme-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    with proxied(int(aws.rpartition(":")[2])) as proxy:
        endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
        head = Lake(Storage(f"s3://{bucket}/lake", {**endpoint, **QUICK})).table("silver", "t").head()
        for number in range(2):
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"KEY{number}")
            manifest = Manifest(table="t", run_id=f"r{number}", fingerprint="f", mode="append")
            assert head.commit(manifest, (), Schema.of({"i": "BIGINT"}), epoch=number) == number
            assert {seen.access_key for seen in proxy.requests("PUT", f"{number:020}.json")} == {f"KEY{number}"}


def test_a_token_of_other_credentials_is_rejected(environment, monkeypatch):
    assert environment.is_dir()
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another key")
    with pytest.raises(
        SettingsError, match=r"AWS_SESSION_TOKEN is set, and belongs to other credentials .* unset AWS_"
    ):
        s3_access(KEY, os.environ)


def test_an_unknown_profile_is_named(environment):
    assert environment.is_dir()
    with pytest.raises(
        SettingsError, match=r"profile of the lake's credentials does not exist: got elt; set aws_profile"
    ):
        s3_access({"aws_profile": "elt"}, os.environ)


def test_no_credentials_are_named_and_a_public_bucket_needs_none(environment, refusing):
    (environment / "credentials").write_text("")
    with pytest.raises(StorageError, match=r"there are no credentials; set AWS_ACCESS_KEY_ID and"):
        at(refusing).read_bytes("a")
    assert identities(refusing, at(refusing, skip_signature="true")) == {SignedRequest("", "", None)}


def test_secrets_are_not_in_the_text_of_an_access():
    access = s3_access({**KEY, "secret_access_key": "hunter2"}, {})
    assert "hunter2" not in repr(access)
    assert access.origin == "the options of the store"


# -- encryption


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"aws_server_side_encryption": "AES256"}, ("AES256", None, None)),
        (
            {
                "aws_server_side_encryption": "aws:kms",
                "aws_sse_kms_key_id": "arn:aws:kms:eu-central-1:1:key/k",
                "aws_sse_bucket_key_enabled": "true",
            },
            ("aws:kms", "arn:aws:kms:eu-central-1:1:key/k", True),
        ),
    ],
    ids=["SSE-S3", "SSE-KMS"],
)
def test_every_object_is_encrypted(aws, options, expected):
    """Rows, partitioned rows, the log, checkpoints, manifests, state and empty files, of all clients."""
    import boto3  # noqa: PLC0415 - an extra

    client, bucket = boto3.client("s3"), f"acme-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    lake = Lake(Storage(f"s3://{bucket}/lake", {"AWS_ENDPOINT_URL": aws, **QUICK, **options}))
    for name, partition_by in (("plain", ()), ("parts", ("g",))):
        table = lake.table("silver", name, partition_by=partition_by)
        with connect(filesystem=lake.storage.filesystem()) as con:
            files = table.stager("r1").stage(con, "select i, i % 2 as g from range(10) t(i)", 0)
        manifest = Manifest(table=name, run_id="r1", fingerprint="f", mode="append")
        table.commit(manifest, files, Schema.of({"i": "BIGINT", "g": "BIGINT"}), None)
        table.tidy()
    lake.storage.touch("empty")
    with lake.storage.filesystem().open(f"{lake.storage.uri}/large", "wb", block_size=5 << 20) as file:
        file.write(b"0" * (11 << 20))  # an upload in parts
    assert lake.storage.create("once", b"1")

    names = lake.storage.names()
    assert {Path(name).suffix for name in names} >= {".parquet", ".json", ""}
    assert any(".checkpoint" in name for name in names)
    for name in names:
        head = client.head_object(Bucket=bucket, Key=f"lake/{name}")
        found = tuple(head.get(key) for key in ("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled"))
        told = 2 if name == "large" else 3  # moto forgets the bucket key of an upload in parts
        assert found[:told] == expected[:told], name


# -- refusals


DENIED = r"the credentials do not permit (this|s3:\w+); allow s3:ListBucket on the bucket, and s3:GetObject"
REGION = r"the bucket is in another region.*; set `region` of"
REFUSALS = [
    (Refusal(404, "NoSuchBucket", "The specified bucket does not exist"), r"the bucket does not exist; create it"),
    (Refusal(403, "AccessDenied", "Access Denied"), DENIED),
    (Refusal(301, "PermanentRedirect", "must be addressed using the specified endpoint."), REGION),
    (Refusal(400, "AuthorizationHeaderMalformed", "the region 'a' is wrong; expecting 'eu-central-1'"), REGION),
    (Refusal(403, "RequestTimeTooSkewed"), r"the clock of this machine is wrong; set the clock"),
    (
        Refusal(400, "ExpiredToken", "The provided token has expired."),
        r"the session token has expired; get new cred",
    ),
    (Refusal(403, "InvalidAccessKeyId"), r"the store does not accept the credentials; correct the access key"),
    (Refusal(403, "SignatureDoesNotMatch"), r"the store does not accept the credentials; correct the access key"),
    (Refusal(400, "KMS.NotFoundException"), r"the KMS key cannot be used; correct aws_sse_kms_key_id"),
]


@pytest.mark.parametrize(("refusal", "message"), REFUSALS, ids=[refusal.code for refusal, _ in REFUSALS])
def test_the_cause_of_a_refusal_is_named(refusing, refusal, message):
    refusing.refusal = refusal
    storage = at(refusing, **KEY)
    operations = {
        "opening": lambda: Lake(storage).table("silver", "t").version(),
        "reading": lambda: storage.read_bytes("a"),
        "reading several": lambda: storage.read_existing(["a"]),
        "writing": lambda: storage.write_bytes("a", b""),
        "touching": lambda: storage.touch("a"),
        "listing": storage.names,
        "listing a folder": lambda: storage.list_folder("x"),
        "removing": lambda: storage.remove(["a"]),
    }
    if refusal.status != 404:
        operations["asking"] = lambda: storage.has("a")
    for name, operation in operations.items():
        with pytest.raises(StorageError) as refused:
            operation()
        assert re.search(message, str(refused.value)), f"{name}: {refused.value}"
        assert type(refused.value) is StorageError, name


def test_a_refused_creation_is_named(refusing):
    refusing.refusal = Refusal(403, "AccessDenied", "Access Denied")
    with pytest.raises(OutcomeUnknownError, match=r"cannot be read again: the credentials do not permit s3:PutObject"):
        at(refusing, **KEY).create("a", b"")


def test_the_region_of_the_bucket_is_named(refusing):
    refusing.refusal = REFUSALS[3][0]
    with pytest.raises(StorageError, match="the bucket is in another region: eu-central-1; set"):
        Lake(at(refusing, **KEY)).table("silver", "t").version()


def test_an_endpoint_that_does_not_answer_is_unavailable():
    storage = Storage("s3://acme/lake", {**QUICK, **KEY, "endpoint_url": "http://127.0.0.1:1"})
    for operation in (lambda: Lake(storage).table("silver", "t").version(), lambda: storage.write_bytes("a", b"")):
        with pytest.raises(
            StorageUnavailableError, match=r": the endpoint does not answer: got .*check endpoint_url and"
        ):
            operation()


def test_refusals_of_a_real_store(s3):
    wrong = Storage(f"s3://{BUCKET}/a", {**credentials(s3.endpoint), "AWS_SECRET_ACCESS_KEY": "wrong", **QUICK})
    missing = Storage("s3://no-such-bucket/a", {**credentials(s3.endpoint), **QUICK})
    for storage, message in (
        (wrong, "the store does not accept the credentials"),
        (missing, "the bucket does not exist"),
    ):
        for operation in (
            lambda s=storage: Lake(s).table("silver", "t").version(),
            lambda s=storage: s.read_bytes("a"),
        ):
            with pytest.raises(StorageError, match=message):
                operation()


@pytest.mark.parametrize("feature", ["deletionVectors", "columnMapping", "typeWidening"])
def test_a_table_with_features_of_other_engines_is_refused(tmp_path, feature):
    WrittenLog(
        tmp_path / "silver" / "t", [{"name": "a", "type": "long", "nullable": True, "metadata": {}}], features=[feature]
    )
    with pytest.raises(
        StorageError, match=rf"has features that the lake does not use: got {feature}; remove them with"
    ):
        Lake(Storage(str(tmp_path))).table("silver", "t").version()


def test_a_table_of_a_newer_protocol_is_refused(tmp_path):
    log = WrittenLog(tmp_path / "silver" / "t", [{"name": "a", "type": "long", "nullable": True, "metadata": {}}])
    [entry] = (log.folder / "_delta_log").glob("*.json")
    lines = [json.loads(line) for line in entry.read_text().splitlines()]
    newer = [
        {"protocol": {"minReaderVersion": 9, "minWriterVersion": 9}} if "protocol" in line else line for line in lines
    ]
    entry.write_text("\n".join(json.dumps(line) for line in newer))
    with pytest.raises(StorageError, match=r"table 't' .*got .*9"):
        Lake(Storage(str(tmp_path))).table("silver", "t").version()


@pytest.mark.parametrize(("timeout", "seconds"), [("500ms", 0.5), ("10s", 10), ("1.5 m", 90)])
def test_timeout_is_a_duration(timeout, seconds):
    options = s3_client_options({"timeout": timeout})
    assert options["config_kwargs"]["read_timeout"] == seconds


def test_a_timeout_that_is_no_duration_is_rejected():
    with pytest.raises(SettingsError, match=r"timeout of the store is not a duration: got '10 minutes'; for example"):
        s3_client_options({"timeout": "10 minutes"})
