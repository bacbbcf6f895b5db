"""Iceberg metadata of lake tables: the same rows by pyiceberg, in catalogs of SQL and Glue, through changes of every kind."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from pipeline import to_iceberg
from pipeline.core.errors import ConflictError, DefinitionError, SinkError
from pipeline.core.sinks import Delivery, SinkContext, SinkPosition
from pipeline.lake import compact
from pipeline.lake.holds import holds
from pipeline.project.holds import release_holds
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.rigs.aws import aws as aws  # noqa: PLC0414 - a fixture
from tests.rigs.aws import aws_endpoint as aws_endpoint  # noqa: PLC0414 - a fixture
from tests.rigs.iceberg import IcebergCatalog, loaded
from tests.runner.conftest import TOML

SHOP = """
from pipeline import files, sink, source, sql, to_iceberg
CATALOG = {catalog!r}
raw = source(files("data/*.csv"), schema={{"id": "bigint", "k": "varchar", "v": "decimal(9, 2)", "at": "timestamp"}}, {options})
latest = sql("select id, k, v, at from raw", key="id", sequence_by="at", partition_by="k")
all_rows = sink("raw", to=to_iceberg("{namespace}.raw", catalog=CATALOG))
newest = sink("latest", to=to_iceberg("{namespace}.latest", catalog=CATALOG))
"""
VALUES = """
select true as b, 1::tinyint as i8, 2::smallint as i16, 3::integer as i32, 4::bigint as i64, 1.5::float as f, 2.5::double as d,
       12.34::decimal(18, 4) as dec, 'äß' as s, '\\xFF'::blob as bin, date '2026-01-31' as day, time '12:00:01.5' as t,
       timestamp '2026-01-31 12:00:00.123456' as at, timestamptz '2026-01-31 12:00:00+02' as z, [1, null]::integer[] as l,
       {{'x': 1, 'y': 'a'}} as st, map {{'k': 1}} as m, uuid '00000000-0000-0000-0000-000000000001' as u from raw
union all by name select null::boolean as b, 'nan'::double as d, '-inf'::float as f from raw
"""


@pytest.fixture
def sql_catalog(tmp_path):
    catalog = IcebergCatalog(tmp_path)
    yield catalog
    catalog.close()


@pytest.fixture
def shop(tmp_path, sql_catalog):
    """A project, and a function that writes files and runs it."""
    return Shop(tmp_path / "a shop", sql_catalog.properties, "published")


class Shop:
    def __init__(self, folder: Path, catalog: dict[str, str], namespace: str) -> None:
        self.folder, self.catalog, self.namespace = folder, catalog, namespace
        (folder / "data").mkdir(parents=True)
        (folder / "headwater.toml").write_text(TOML)
        self.define()

    def define(self, options: str = 'new_columns="evolve"', also: str = "") -> None:
        text = SHOP.format(catalog=self.catalog, options=options, namespace=self.namespace)
        (self.folder / "shop.py").write_text(text + also)

    def run(self, *, full: bool = False, **files: str) -> Workspace:
        for name, text in files.items():
            (self.folder / "data" / f"{name}.csv").write_text(text)
        project = load(self.folder)
        outcome = Runner(project, RunOptions(full=full)).run()
        assert outcome.status == "done", outcome
        return Workspace(project)

    def table(self, name: str) -> Any:
        return loaded(self.catalog, f"{self.namespace}.{name}")

    def operations(self, name: str) -> list[str]:
        return [snapshot.summary.operation.value for snapshot in self.table(name).snapshots()]

    def differing(self, workspace: Workspace, *names: str) -> list[str]:
        """Return the tables whose rows or version differ from those of the lake."""
        return [name for name in names or ("raw", "latest") if not self._is_equal(workspace, name)]

    def _is_equal(self, workspace: Workspace, name: str) -> bool:
        table = self.table(name)
        expected = workspace.query(f'select * from "{name}"').to_pylist()
        found = table.scan().to_arrow().to_pylist()
        number = json.loads(table.properties["headwater.reached"])["version"]
        return (
            sorted(map(ordered, found)) == sorted(map(ordered, expected)) and number == workspace.version(name).number
        )


def ordered(row: dict[str, Any]) -> str:
    return str(sorted(row.items()))


FIRST = "id,k,v,at\n1,a b,1.5,2026-01-01\n2,,2.5,2026-01-01\n"


def test_new_rows_are_appended_and_changed_rows_replaced(shop):
    assert shop.differing(shop.run(a=FIRST)) == []
    assert shop.differing(shop.run(b="id,k,v,at\n1,c/d,3.5,2026-01-02\n3,ü,1,2026-01-01\n")) == []

    assert shop.operations("raw") == ["append", "append"]
    assert shop.operations("latest") == ["append", "overwrite"]

    assert shop.differing(shop.run(full=True)) == []


def test_nothing_is_committed_without_a_new_version(shop):
    shop.run(a=FIRST)
    before = shop.table("raw").metadata_location

    shop.run()

    assert shop.table("raw").metadata_location == before


def test_new_columns_and_wider_types_are_taken_over(shop):
    shop.define('new_columns="evolve", new_types="evolve"')
    shop.run(a=FIRST)
    assert shop.differing(shop.run(b="id,k,v,at,new\n4,a,1,2026-01-03,x\n")) == []

    assert "new" in shop.table("raw").schema().column_names


def test_a_compaction_is_mirrored(shop):
    for number in range(5):
        workspace = shop.run(**{f"f{number}": f"id,k,v,at\n{number},a,1,2026-01-01\n"})
    table = workspace.table("raw")
    assert compact(table, table.head()) is not None

    workspace = shop.run()

    assert shop.differing(workspace) == []
    assert len(list(shop.table("raw").inspect.files().to_pylist())) == 1


def test_values_of_all_types_arrive_exactly(shop):
    shop.define(
        also=f'kinds = sql(r"""{VALUES.format()}""")\nk = sink("kinds", to=to_iceberg("published.kinds", catalog=CATALOG))\n'
    )

    assert shop.differing(shop.run(a="id,k,v,at\n1,a,1,2026-01-01\n"), "kinds") == []


def delivery(workspace: Workspace, since: SinkPosition | None) -> Delivery:
    version = workspace.version("raw")
    rows = workspace.query("select * from raw").to_reader()
    to = SinkPosition(version.number, version.manifest_id)
    return Delivery(to, since, rows, rows.schema.empty_table(), files=tuple(file.uri for file in version.files))


def target(shop: Shop, name: str = "raw"):
    return to_iceberg(f"{shop.namespace}.{name}", catalog=shop.catalog).open(SinkContext("p", "dev", "s", shop.folder))


def test_a_delivery_that_was_written_is_not_written_again(shop):
    workspace = shop.run(a=FIRST)
    before = shop.table("raw").metadata_location

    target(shop).write(delivery(workspace, None))  # as a process that was killed before it saw the answer

    assert shop.table("raw").metadata_location == before


def test_a_second_sender_is_refused(shop):
    first = shop.run(a=FIRST)
    late = delivery(first, None)
    shop.run(b="id,k,v,at\n3,a,1,2026-01-01\n")

    with pytest.raises(ConflictError, match="another process has written to this target: got version 1"):
        target(shop).write(late)


def test_a_table_of_others_is_refused(shop, sql_catalog):
    workspace = shop.run(a=FIRST)
    sql_catalog.create("theirs", shop.table("raw").schema().as_arrow()).append(shop.table("raw").scan().to_arrow())
    shop.namespace = "shop"

    problem = "the Iceberg table 'shop.theirs' was not written by this sink; choose another name, or drop the table"
    with pytest.raises(SinkError, match=problem):
        target(shop, "theirs").write(delivery(workspace, None))


def test_old_snapshots_expire(shop, sql_catalog):
    first = shop.run(a=FIRST)
    now = target(shop).reached()
    later = shop.run(b="id,k,v,at\n3,a,1,2026-01-01\n")
    assert len(shop.table("raw").snapshots()) == 2
    del first

    short = to_iceberg("published.raw", catalog=shop.catalog, keep=dt.timedelta())
    changed = delivery(later, target(shop).reached())
    fake = SinkPosition(changed.to.version + 1, changed.to.manifest_id)
    short.open(SinkContext("p", "dev", "s", shop.folder)).write(
        Delivery(fake, changed.since, changed.rows, changed.gone, files=changed.files[:1])
    )

    assert now is not None
    assert len(shop.table("raw").snapshots()) == 1
    assert (
        sql_catalog.catalog.load_table("published.raw").scan().to_arrow().num_rows == later.version("raw").files[0].rows
    )


def test_a_password_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("CATALOG_PASSWORD", "hunter2")
    catalog = {"type": "rest", "uri": "http://127.0.0.1:9/", "credential": "env:CATALOG_PASSWORD"}
    to = to_iceberg("a.b", catalog=catalog)

    with pytest.raises(SinkError, match=r"the Iceberg table 'a.b' cannot be written: got ") as raised:
        to.open(SinkContext("p", "dev", "s", tmp_path))
    assert "hunter2" not in f"{raised.value} {to!r} {to}"


def test_a_name_needs_a_namespace():
    with pytest.raises(
        DefinitionError, match=r"an Iceberg table needs a namespace: got 'orders'; write namespace\.table"
    ):
        to_iceberg("orders", catalog={})


@pytest.mark.proof
def test_a_table_is_registered_in_glue(tmp_path, aws):
    boto3 = pytest.importorskip("boto3")
    bucket = f"b{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    catalog = {"type": "glue", "glue.endpoint": aws, "s3.endpoint": aws, "warehouse": f"s3://{bucket}/wh"}
    keys = {"s3.access-key-id": "env:AWS_ACCESS_KEY_ID", "s3.secret-access-key": "env:AWS_SECRET_ACCESS_KEY"}
    shop = Shop(tmp_path / "shop", {**catalog, **keys}, f"n{uuid.uuid4().hex}")

    workspace = shop.run(a=FIRST)
    shop.catalog = {**catalog, "s3.access-key-id": "key", "s3.secret-access-key": "secret"}

    assert shop.differing(workspace) == []
    found = boto3.client("glue").get_table(DatabaseName=shop.namespace, Name="raw")["Table"]
    assert found["Parameters"]["table_type"] == "ICEBERG"


def test_the_published_version_is_held(shop):
    workspace = shop.run(a=FIRST)
    held = holds(workspace.table("latest").storage)
    assert [(hold.version, hold.reason) for hold in held] == [(0, "sink newest")]

    workspace = shop.run(b="id,k,v,at\n1,c/d,3.5,2026-01-02\n")
    newest = workspace.version("latest").number
    assert [hold.version for hold in holds(workspace.table("latest").storage)] == [newest]

    release_holds(workspace, "latest")
    assert [hold.version for hold in holds(workspace.table("latest").storage)] == [newest]

    definitions = shop.folder / "shop.py"
    definitions.write_text(
        "".join(line for line in definitions.read_text().splitlines(keepends=True) if "newest =" not in line)
    )
    for name in ("latest", "raw"):
        release_holds(Workspace(load(shop.folder)), name)
    assert holds(workspace.table("latest").storage) == ()
    assert [hold.reason for hold in holds(workspace.table("raw").storage)] == ["sink all_rows"]
