"""Tasks on Ray read a lake on S3 through the cache on the disk of their machine."""

from __future__ import annotations

import uuid

import pytest

from pipeline.batch.ray_tasks import run_tasks
from pipeline.batch.retries import SplitTask
from pipeline.batch.work import Split
from pipeline.core import disk_cache
from pipeline.core.disk_cache import DiskCache
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest
from pipeline.kernel.engine import connect, one
from pipeline.kernel.pool import Limits
from pipeline.lake import Lake
from tests.rigs.proxy import proxied

pytestmark = [
    pytest.mark.ray,
    pytest.mark.proof,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning"),
]


def test_a_task_asks_the_store_once_and_keeps_what_it_read_on_the_disk(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "_here", [DiskCache(tmp_path, 1 << 24)])
    with proxied(s3.port) as proxy:
        table = Lake(s3.storage(uuid.uuid4().hex, port=proxy.port)).table("silver", "t")
        filesystem = table.storage.filesystem()
        with connect(filesystem=filesystem) as con:
            files = table.stager("r").stage(con, "select i::integer as a from range(1000) r(i)", 0)
        schema = Schema.of({"a": "INTEGER"})
        table.commit(Manifest(table="t", run_id="r", fingerprint="f", mode="append"), files, schema, None)
        filesystem.invalidate_cache()
        query = table.version().scan().query()

        def run(_split, **_):
            with connect(filesystem=filesystem, keep=False) as con:
                return one(con, f"select sum(a) from ({query})")[0]

        before = len(proxy.seen)
        for _ in range(2):
            (answer,) = run_tasks("cache", [SplitTask(run, Split(0))], Limits(1 << 28, 1))
            assert answer[1] == 499_500
        asked = [each.path for each in proxy.seen[before:] if ".parquet" in each.path]
    assert len(asked) == 1, asked
    assert [path for path in tmp_path.rglob("*") if path.is_file()]
