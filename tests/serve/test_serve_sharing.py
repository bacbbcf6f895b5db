"""Delta Sharing: the official client and our own source read what a key may see; addresses of files are signed."""

from __future__ import annotations

import json
import os
import subprocess
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.cli import main
from pipeline.connectors.tables.sharing import delta_sharing
from pipeline.governance.api_keys import ApiKeys
from pipeline.governance.audit_records import records
from pipeline.project.workspace import Workspace
from serve import exported_files
from serve.access.caller import Caller
from serve.access.signed_urls import VALID_S, SignedUrls
from serve.queries.select import VisibleRelation
from serve.sharing.delta_types import schema_string, shared_schema
from serve.tables import FRESH_S
from tests.serve.conftest import open_cafe
from tests.serve.test_serve_access import ROWS, make, sent
from tests.serve.test_serve_client import served

PYTHON = Path(__file__).parents[2] / ".peers-sharing" / "bin" / "python"
TABLE = "/v1/sharing/shares/shop/schemas/gold/tables/orders"
ANN = Caller("ann", "key")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shop"), ROWS)


@pytest.fixture(scope="module")
def app(shop):
    with shop.client(key="") as client:
        yield client


@pytest.fixture(scope="module")
def sales(shop):
    return sent(shop.key(scopes=["read"], roles=["sales-eu"], claims={"region": "EU"}))


def lines_of(answer):
    assert answer.headers["content-type"] == "application/x-ndjson; charset=utf-8"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_shares_schemas_and_tables_are_those_that_a_key_may_read(app, sales):
    def items(path, status=200):
        answer = app.get(f"/v1/sharing{path}", headers=sales)
        assert answer.status_code == status, answer.text
        return answer.json().get("items", answer.json())

    assert items("/shares") == [{"name": "shop"}]
    assert items("/shares/SHOP")["share"] == {"name": "shop"}
    assert items("/shares/shop/schemas") == [{"name": "gold", "share": "shop"}]
    names = {each["name"] for each in items("/shares/shop/all-tables")}
    assert (
        names == {each["name"] for each in items("/shares/shop/schemas/gold/tables")} == {"orders", "totals", "plain"}
    )
    first = app.get("/v1/sharing/shares/shop/all-tables?maxResults=2", headers=sales).json()
    rest = app.get(f"/v1/sharing/shares/shop/all-tables?pageToken={first['nextPageToken']}", headers=sales).json()
    assert len(first["items"]) == 2
    assert len(rest["items"]) == 1
    assert "nextPageToken" not in rest
    for path in (
        "/shares/other",
        "/shares/shop/schemas/silver/tables",
        "/shares/shop/schemas/gold/tables/staff_only/metadata",
    ):
        assert items(path, 404)["errorCode"] == "RESOURCE_DOES_NOT_EXIST"
    assert items("/shares?pageToken=x", 400)["errorCode"] == "INVALID_PARAMETER_VALUE"
    refused = app.get("/v1/sharing/shares")
    assert (refused.status_code, refused.json()["errorCode"]) == (401, "UNAUTHENTICATED")
    assert refused.headers["www-authenticate"].startswith("Bearer")


def test_files_have_the_rows_and_values_of_the_policy(app, sales):
    answer = app.post(f"{TABLE}/query", json={"limitHint": 1, "predicateHints": ["id > 5"]}, headers=sales)
    protocol, metadata, *files = lines_of(answer)
    assert protocol == {"protocol": {"minReaderVersion": 1}}
    assert (
        answer.headers["delta-table-version"]
        == app.get(f"{TABLE}/version", headers=sales).headers["delta-table-version"]
        == "0"
    )
    assert lines_of(app.get(f"{TABLE}/metadata", headers=sales)) == [protocol, metadata]
    fields = json.loads(metadata["metaData"]["schemaString"])["fields"]
    assert [(each["name"], each["type"]) for each in fields] == [
        ("id", "long"),
        ("region", "string"),
        ("email", "string"),
        ("amount", "double"),
    ]
    (file,) = (each["file"] for each in files)
    content = app.get(file["url"])
    assert (content.status_code, len(content.content)) == (200, file["size"])
    assert content.headers["content-type"] == "application/vnd.apache.parquet"
    rows = pq.read_table(pa.BufferReader(content.content)).to_pylist()
    assert rows == [
        {"id": i, "region": "EU", "email": email[0] + "***", "amount": amount}
        for i, region, email, _, amount in ROWS
        if region == "EU"
    ]
    assert json.loads(file["stats"]) == {"numRecords": 3}
    part = app.get(file["url"], headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"PAR1")
    assert app.head(file["url"]).headers["content-length"] == str(file["size"])


def test_files_are_made_once_for_callers_with_the_same_rights(app, shop, sales):
    def files(headers):
        return [line["file"]["id"] for line in lines_of(app.post(f"{TABLE}/query", headers=headers)) if "file" in line]

    same = sent(shop.key(scopes=["read"], roles=["sales-eu"], claims={"region": "EU"}))
    other = sent(shop.key(scopes=["read"], roles=["sales-us"], claims={"region": "US"}))
    nothing = sent(shop.key(scopes=["read"], roles=["sales-eu"]))
    assert files(sales) == files(same)
    assert set(files(sales)).isdisjoint(files(other))
    assert files(nothing) == []


def test_edited_and_old_addresses_are_refused(app, sales, tmp_path):
    url = next(line["file"]["url"] for line in lines_of(app.post(f"{TABLE}/query", headers=sales)) if "file" in line)
    assert app.get(url).status_code == 200
    for edited in (
        url[:-1] + ("0" if url[-1] != "0" else "1"), url.replace("caller=", "caller=x"), url.replace("until=", "until=9"), url.partition("?")[0],
        url.replace("00000.parquet", "export.json"), url.replace("00000.parquet", "..%2Fexport.json"), url.replace("&signature", "&until=1&signature"),
    ):  # fmt: skip
        assert app.get(edited).status_code in {401, 404}, edited
        assert app.get(edited, headers=sales).status_code in {401, 404}, "a key is no signature"
    now = [1e9]
    signed = SignedUrls("/files", tmp_path / "secret", lambda: now[0])
    path, until = signed.sign("/files/a/b", ANN)
    query = path.partition("?")[2]
    other = SignedUrls("/files", tmp_path / "secret", lambda: now[0])
    assert other.caller("/files/a/b", query).id == "ann", "of another replica"
    assert other.caller("/files/a/c", query) is None
    assert not other.caller("/files/a/b", query).may("read")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert until == now[0] + VALID_S
    now[0] += VALID_S + 1
    assert other.caller("/files/a/b", query) is None


def test_downloads_are_recorded_with_the_key_that_asked_and_count_for_it(tmp_path):
    shop = make(tmp_path / "shop", ROWS, serve="requests_per_second = 0.01\n")
    text, key = ApiKeys(Workspace(shop.project()).catalog, "dev").create("partner", roles=["audit"])
    with shop.client(key="") as client:
        lines = lines_of(client.post(f"{TABLE}/query", headers=sent(text)))
        content = client.get(lines[2]["file"]["url"])
        assert content.status_code == 200
        assert content.headers["ratelimit"].startswith('"requests";r=4998;'), "two requests of this key"
    asked, read = [each for each in records(shop.root / ".headwater" / "audit" / "dev") if "sharing" in each["path"]]
    assert (asked["caller"], asked["table"], asked["rows"], asked["why"]) == (key.id, "orders", 6, "policy auditors")
    assert (read["caller"], read["table"], read["why"], read["bytes"]) == (
        key.id,
        "orders",
        "a signed address",
        len(content.content),
    )


def test_what_cannot_be_asked(app, sales):
    for body, message in (
        ({"startingVersion": 0}, "the history of the table is not shared"),
        ({"version": 99}, "table 'orders' has no such version"),
        ({"version": "x"}, "'version' takes an integer"),
        ({"timestamp": "x"}, "'timestamp' takes a time"),
        ([], "the body is not a JSON object"),
    ):
        answer = app.post(f"{TABLE}/query", json=body, headers=sales)
        assert answer.status_code in {400, 404}
        assert answer.json()["message"].startswith(message)
    assert app.post(f"{TABLE}/query", content=b"{", headers=sales).status_code == 400
    assert app.post(f"{TABLE}/query", content=b"x" * (1 << 17), headers=sales).status_code == 413
    assert app.get(f"{TABLE}/changes?startingVersion=0", headers=sales).status_code == 400


def test_the_space_for_files_has_a_limit(tmp_path, monkeypatch):
    shop = make(tmp_path / "shop", ROWS)
    folder = shop.root / ".headwater" / "exports" / "dev"
    tables = [f"/v1/sharing/shares/shop/schemas/gold/tables/{name}/query" for name in ("plain", "totals")]
    with shop.client() as client:
        assert client.post(tables[0]).status_code == 200
        (first,) = folder.iterdir()
        size = sum(file.stat().st_size for file in first.iterdir())
        monkeypatch.setattr(client.app.state.backend.exports, "_most_bytes", size + 100)
        assert client.post(tables[0]).status_code == 200, "it is there"
        refused = client.post(tables[1])
        assert (refused.status_code, refused.json()["message"].partition(";")[0]) == (
            503,
            "the space for shared files is in use",
        )
        (old,) = folder.iterdir()
        os.utime(old, (time.time() - VALID_S - 1,) * 2)
        assert client.post(tables[1]).status_code == 200
        (new,) = folder.iterdir()
        assert new != old
        monkeypatch.setattr(client.app.state.backend.exports, "_most_bytes", 10)
        assert "larger than what may be shared" in client.post(tables[0]).text
        assert len(list(folder.iterdir())) == 1, "nothing is left over"


KINDS = {
    "true": ("BOOLEAN", "boolean"), "1::tinyint": ("TINYINT", "byte"), "1::utinyint": ("SMALLINT", "short"), "1::ubigint": ("DECIMAL(20,0)", "decimal(20,0)"),
    "1::hugeint": ("DECIMAL(38,0)", "decimal(38,0)"), "1.5::float": ("FLOAT", "float"), "1.50": ("DECIMAL(3,2)", "decimal(3,2)"), "'x'::blob": ("BLOB", "binary"),
    "uuid '00000000-0000-0000-0000-000000000001'": ("VARCHAR", "string"), "time '12:00:00'": ("VARCHAR", "string"), "interval '1 day'": ("VARCHAR", "string"),
    "timestamp '2026-01-01'": ("TIMESTAMPTZ", "timestamp"), "date '2026-01-01'": ("DATE", "date"),
    "[1::hugeint]": ("DECIMAL(38,0)[]", {"type": "array", "elementType": "decimal(38,0)", "containsNull": True}),
    "map {'a': timestamp '2026-01-01'}": (
        "MAP(VARCHAR, TIMESTAMPTZ)", {"type": "map", "keyType": "string", "valueType": "timestamp", "valueContainsNull": True}),
    "{'a b': [{'c': 1::utinyint}]}": ('STRUCT("a b" STRUCT("c" SMALLINT)[])', {"type": "struct", "fields": [{"name": "a b", "type": {
        "type": "array", "elementType": {"type": "struct", "fields": [{"name": "c", "type": "short", "nullable": True, "metadata": {}}]},
        "containsNull": True}, "nullable": True, "metadata": {}}]}),
}  # fmt: skip


def test_every_type_that_a_policy_can_make_is_shared(app):
    """A mask may have any type of the engine, and not only those that a lake stores."""
    backend = app.app.state.backend
    sql = f"select {', '.join(f'{each} as c{n}' for n, each in enumerate(KINDS))}"
    schema = backend.engine.schema(sql)
    shared = shared_schema(schema)
    assert [each.type for each in shared.columns] == [kind for kind, _ in KINDS.values()]
    assert [each["type"] for each in json.loads(schema_string(shared))["fields"]] == [
        kind for _, kind in KINDS.values()
    ]
    export = backend.exports.of(VisibleRelation("kinds", 1, sql, schema, "1"), shared)
    (row,) = pq.read_table(backend.exports.path(export.name, export.files[0].name)).to_pylist()
    assert row["c4"] == Decimal(1)
    assert row["c15"] == {"a b": [{"c": 1}]}


def test_large_tables_are_several_files(app, sales, monkeypatch):
    monkeypatch.setattr(exported_files, "_FILE_ROWS", 2)
    monkeypatch.setattr(exported_files, "_LAYOUT", 0)
    monkeypatch.setattr("serve.queries.engine._BATCH_ROWS", 2)
    lines = lines_of(app.post(f"{TABLE}/query", headers=sales))
    sizes = [json.loads(line["file"]["stats"])["numRecords"] for line in lines if "file" in line]
    assert sum(sizes) == 3
    assert len(sizes) > 1


def test_our_own_source_reads_every_type_and_a_newer_version(tmp_path, monkeypatch):
    cafe = open_cafe(tmp_path)
    with served(cafe.project()) as url:
        profile = {"shareCredentialsVersion": 1, "endpoint": f"{url}/v1/sharing/", "bearerToken": cafe.key()}
        monkeypatch.setenv("PROFILE", json.dumps(profile))

        def read(table, cursor=None):
            reader = delta_sharing("env:PROFILE", "cafe", "gold", table, allowed_hosts=("127.0.0.1",))
            plan, rows = reader.plan(cursor), []
            for split in plan.splits:
                result = reader.read(split, reader.schema(split.source_object))
                assert result.rejected.num_rows == 0
                rows += result.rows.drop_columns(["_position"]).to_pylist()
            return sorted(rows, key=lambda row: row["order_id"]), plan

        orders, first = read("cafe_orders")
        assert orders[1] == {
            "order_id": 2, "day": date(2026, 1, 5), "paid_at": datetime(2026, 1, 5, 9, 30, 0, 250_000, UTC), "guest": "Bo", "cups": 2,
            "price": Decimal("5.00"), "rating": orders[1]["rating"], "is_member": False,
        }  # fmt: skip
        assert orders[1]["rating"] != orders[1]["rating"], "not a number, as it is stored"
        shapes, _ = read("shapes")
        assert shapes[2]["nested"] == {
            "at": datetime(2026, 1, 6, 8, tzinfo=UTC), "guest": 'O\'Hara, "Kit"', "scores": [{"x": float("inf")}],
        }  # fmt: skip
        assert (shapes[0]["clock"], shapes[0]["bytes"]) == (datetime(2026, 1, 5, 8, tzinfo=UTC), b"Ann")
        cafe.add("second", "6,2026-01-08,2026-01-08T08:00:00Z,Cy,0,1.00,1.0,true\n")
        cafe.run()
        time.sleep(FRESH_S)
        assert "its provider shares no history of it" in read("cafe_orders", first.cursor)[1].changed, (
            "so all is read again"
        )
        assert [row["order_id"] for row in read("cafe_orders")[0]] == [1, 2, 3, 4, 5, 6]


def test_a_profile_is_written_for_its_owner_only(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(shop.root)
    file = tmp_path / "partner.share"
    words = [
        "keys",
        "create",
        "partner",
        "--sharing-profile",
        str(file),
        "--url",
        "https://data.example.com/",
        "--expires",
        "90 days",
    ]
    monkeypatch.setattr("sys.argv", ["headwater", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in {0, None}
    profile = json.loads(file.read_text())
    assert profile["endpoint"] == "https://data.example.com/v1/sharing/"
    assert profile["expirationTime"].endswith("Z")
    assert file.stat().st_mode & 0o777 == 0o600
    printed = capsys.readouterr()
    assert profile["bearerToken"] not in printed.out + printed.err


READ = """
import json, sys
import delta_sharing
profile, table = sys.argv[1:]
client = delta_sharing.SharingClient(profile)
print(json.dumps([[t.share, t.schema, t.name] for t in client.list_all_tables()]))
print(delta_sharing.load_as_pandas(f"{profile}#{table}").to_json(orient="records", date_format="iso"))
print(delta_sharing.get_table_version(f"{profile}#{table}"))
"""


@pytest.mark.proof
def test_the_official_client_reads_tables(tmp_path):
    if not PYTHON.exists():
        pytest.skip("delta-sharing is not installed: run `make peers`")
    cafe = open_cafe(tmp_path)
    with served(cafe.project()) as url:
        profile = tmp_path / "cafe.share"
        profile.write_text(
            json.dumps({"shareCredentialsVersion": 1, "endpoint": f"{url}/v1/sharing/", "bearerToken": cafe.key()})
        )

        def read(table):
            process = subprocess.run(
                [PYTHON, "-W", "ignore", "-c", READ, profile, table], capture_output=True, text=True, check=False
            )
            assert process.returncode == 0, process.stderr
            tables, rows, version = process.stdout.splitlines()
            assert ["cafe", "gold", "cafe_orders"] in json.loads(tables)
            assert version == "0"
            return json.loads(rows)

        orders = read("cafe.gold.cafe_orders")
        assert [(row["order_id"], row["guest"], row["paid_at"]) for row in orders][:2] == [
            (1, "Ann", "2026-01-05T08:00:00.000Z"),
            (2, "Bo", "2026-01-05T09:30:00.250Z"),
        ]
        assert len(read("cafe.gold.shapes")) == 5
