"""A lake whose credentials lack one right: what needs it is refused with its name, and what does not need it works."""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

import pytest

from pipeline.core.errors import HeadwaterError, StorageError
from pipeline.core.lake_policy import LakePolicy
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest
from pipeline.kernel.engine import connect
from pipeline.lake import Lake, LakeTable, Storage, compact, vacuum
from pipeline.lake.log_files import LogFiles
from tests.rigs.delta_log import WrittenLog
from tests.rigs.proxy import Fault, Rule, proxied
from tests.rigs.weed import credentials

SCHEMA = Schema.of({"a": "BIGINT"})
REQUESTS = {
    "s3:ListBucket": (("GET", r"list-type="),),
    "s3:GetObject": (("GET", r"^[^?]+$"), ("HEAD", "")),
    "s3:PutObject": (("PUT", ""),),
    "s3:DeleteObject": (("POST", r"\?delete"), ("DELETE", "")),
}
"""The requests that need a right."""
NEEDS = {
    "open": ("s3:ListBucket", "s3:GetObject"),
    "query": ("s3:ListBucket", "s3:GetObject"),
    "append": ("s3:ListBucket", "s3:GetObject", "s3:PutObject"),
    "compact": ("s3:ListBucket", "s3:GetObject", "s3:PutObject"),
    "vacuum": ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"),
}


@dataclass
class Denying:
    """A table of five rows in five files, and how a right to its bucket is taken away."""

    storage: Storage
    deny: object

    @property
    def table(self) -> LakeTable:
        """The table, opened by a process that has not read anything yet."""
        storage = replace(self.storage, options={**self.storage.options, "NUMBER": uuid.uuid4().hex})
        return replace(Lake(storage).table("silver", "t"), policy=LakePolicy(history=dt.timedelta()))

    def append(self, value: int) -> int:
        table = self.table
        with connect(filesystem=table.storage.filesystem()) as con:
            files = table.stager(f"r{value}").stage(con, f"select {value}::bigint as a", 0)
        manifest = Manifest("t", f"r{value}", "f", "append")
        return table.commit(manifest, files, SCHEMA, table.version()).number

    def query(self) -> list[int]:
        return sorted(Lake(self.storage).rows(self.table)["a"].to_pylist())

    def open(self) -> int:
        return self.table.version().number

    def compact(self) -> int:
        return compact(self.table, self.table.head()).after

    def vacuum(self) -> int:
        return vacuum(self.table).versions


def by_proxy(s3, stack):
    proxy = stack.enter_context(proxied(s3.port))

    def deny(right: str | None) -> None:
        requests = () if right is None else REQUESTS[right]
        proxy.rule(*(Rule(method, pattern, Fault.REFUSE, 403, 10**9) for method, pattern in requests))

    return s3.storage(uuid.uuid4().hex, port=proxy.port, max_retries="0"), deny


def by_policy(s3, _):
    import boto3  # noqa: PLC0415 - an extra

    name, options = "rights", credentials(s3.endpoint)
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=options["AWS_REGION"],
        aws_access_key_id=options["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=options["AWS_SECRET_ACCESS_KEY"],
    )
    if name not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=name)
    resources = [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"]

    def deny(right: str | None) -> None:
        if right is None:
            with suppress(client.exceptions.ClientError):  # it has none
                client.delete_bucket_policy(Bucket=name)
            return
        statement = {"Effect": "Deny", "Principal": "*", "Action": right, "Resource": resources}
        client.put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))

    return Storage(f"s3://{name}/{uuid.uuid4().hex}", {**options, "max_retries": "0"}), deny


@pytest.fixture
def denying(request, s3, monkeypatch):
    for module in ("storage", "object_files"):  # a process that has used a project has a cache on disk
        monkeypatch.setattr(f"pipeline.lake.{module}.cache_here", lambda: None)
    with ExitStack() as stack:
        storage, deny = request.param(s3, stack)
        made = Denying(storage, deny)
        for value in range(5):
            made.append(value)
        yield made
        deny(None)


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("denying", "right"),
    [
        (by, right)
        for by in (by_proxy, by_policy)
        for right in REQUESTS
        if (by, right) != (by_policy, "s3:DeleteObject")
    ],
    indirect=["denying"],  # SeaweedFS applies no policy to a request that deletes several objects
)
def test_a_right_that_is_missing_is_named_and_nothing_is_lost(denying, right):
    denying.deny(right)
    for name in ("open", "query", "append", "compact", "vacuum"):
        work = (lambda: denying.append(5)) if name == "append" else getattr(denying, name)
        if right not in NEEDS[name]:
            work()
            continue
        with pytest.raises(HeadwaterError) as refused:
            work()
        message = str(refused.value)
        assert re.search(rf"the credentials do not permit ({right}|this); allow s3:ListBucket on", message), name
    denying.deny(None)
    rows = list(range(6 if right == "s3:DeleteObject" else 5))
    assert denying.query() == rows
    if right != "s3:DeleteObject":
        denying.append(5)
        denying.compact()
    denying.vacuum()
    assert denying.query() == list(range(6))
    assert LogFiles.of(denying.table.storage).readable()[-1] == denying.open()


@pytest.mark.parametrize(
    ("features", "protocol", "message"),
    [
        (["deletionVectors"], None, "has features that the lake does not use: got deletionVectors; remove them"),
        ([], {"minReaderVersion": 9, "minWriterVersion": 9}, r"table 't' .*got .*9"),
    ],
    ids=["deletion vectors", "newer protocol"],
)
def test_tables_of_other_engines_are_refused_on_a_store_too(s3, tmp_path, features, protocol, message):
    log = WrittenLog(
        tmp_path / "t", [{"name": "a", "type": "long", "nullable": True, "metadata": {}}], features=features
    )
    [entry] = (log.folder / "_delta_log").glob("*.json")
    lines = [json.loads(line) for line in entry.read_text().splitlines()]
    if protocol is not None:
        lines = [{"protocol": protocol} if "protocol" in line else line for line in lines]
    lake = Lake(s3.storage(uuid.uuid4().hex))
    table = lake.table("silver", "t")
    table.storage.write_text(f"_delta_log/{entry.name}", "\n".join(json.dumps(line) for line in lines))
    for work in (table.version, table.head):
        with pytest.raises(StorageError, match=message):
            work()
