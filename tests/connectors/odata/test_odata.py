"""OData against a service: types from its metadata, filters, next links, delta links, and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.connectors.odata.metadata import ServiceMetadata
from pipeline.connectors.odata.source import odata
from pipeline.connectors.rest import ApiKey
from pipeline.core.cursors import Cursor
from pipeline.core.errors import DefinitionError, Place, SourceError
from tests.rigs.http_faults import Reply, http_server
from tests.rigs.odata_service import METADATA, OdataServer

HERE = Place("here")


@pytest.fixture(scope="module")
def running():
    with http_server() as server:
        yield server


@pytest.fixture
def service(running):
    made = OdataServer(running.url)
    made.changes = [{"id": n, "name": f"n{n}"} for n in range(1, 6)]
    running.routes = {"/odata/items": made.answer, "/odata/$metadata": lambda _: Reply(METADATA)}
    running.script, running.received, made.server = [], [], running
    return made


def rows_of(reader, plan) -> list[Any]:
    found = []
    for split in plan.splits:
        with reader.segments.path(split.source_object.stamp + ".ndjson") as path:
            found += [json.loads(line) for line in Path(path).read_text().splitlines()]
    return found


def test_all_pages(service, tmp_path):
    reader = odata(
        service.url, "items", select=["id", "name"], filter="id gt 0", expand="owner", page_size=2, spool=str(tmp_path)
    )
    assert rows_of(reader, reader.plan(None)) == service.changes
    first = service.server.received[0]
    assert first.params == {"$select": "id,name", "$filter": "(id gt 0)", "$expand": "owner"}
    assert first.headers["prefer"] == "odata.maxpagesize=2"
    assert first.headers["odata-maxversion"] == "4.01"
    assert reader.uri == f"{service.url}/items"


def test_what_is_new_by_a_property(service, tmp_path):
    reader = odata(service.url, "items", cursor="id", filter="name ne null", spool=str(tmp_path))
    cursor = reader.plan(None).cursor
    service.changes.append({"id": 6, "name": "n6"})
    service.server.received.clear()
    assert rows_of(reader, reader.plan(cursor)) == [{"id": 6, "name": "n6"}]
    assert service.server.received[0].params == {"$filter": "(name ne null) and id ge 5", "$orderby": "id"}


@pytest.mark.parametrize(
    ("value", "lag", "literal"),
    [
        ("it's", 0, "'it''s'"),
        ("2026-03-01T10:00:00Z", "1 minute", "2026-03-01T09:59:00Z"),
        (7, 2, "5"),
        ("2026-03-01", 0, "2026-03-01"),
    ],
)
def test_literals(service, tmp_path, value, lag, literal):
    service.server.routes["/odata/items"] = lambda _: Reply({"value": [{"meta": {"at": value}}]})
    reader = odata(service.url, "items", cursor="meta.at", lag=lag, spool=str(tmp_path))
    reader.plan(reader.plan(None).cursor)
    assert service.server.received[1].params["$filter"] == f"meta/at ge {literal}"


def test_changes_by_delta_links(service, tmp_path):
    reader = odata(service.url, "items", delta=True, spool=str(tmp_path))
    first = reader.plan(None)
    assert len(rows_of(reader, first)) == 5
    cursor = Cursor(first.cursor.kind, json.loads(json.dumps(first.cursor.value)))
    assert reader.plan(cursor).splits == ()
    removed = {"@removed": {"reason": "deleted"}, "id": 2}
    service.changes += [{"id": 1, "name": "changed"}, removed]
    assert rows_of(reader, reader.plan(cursor)) == [{"id": 1, "name": "changed"}, removed]


def test_a_delta_link_that_has_expired(service, tmp_path):
    reader = odata(service.url, "items", delta=True, spool=str(tmp_path))
    cursor = reader.plan(None).cursor
    service.oldest_delta = 99
    with pytest.raises(
        SourceError,
        match=r"the delta link has expired: got status 410: .*; read everything again: headwater run --full",
    ):
        reader.plan(cursor)


def test_a_service_without_delta_links(service, tmp_path):
    service.server.routes["/odata/items"] = lambda _: Reply({"value": [{"id": 1}]})
    with pytest.raises(SourceError, match="the service returned no delta link: got None; remove delta=True"):
        odata(service.url, "items", delta=True, spool=str(tmp_path)).plan(None)


@pytest.mark.parametrize("link", ["http://[", "http://a\x00/"])
def test_a_delta_link_that_is_no_address(service, tmp_path, link):
    service.server.routes["/odata/items"] = lambda _: Reply({"value": [{"id": 1}], "@odata.deltaLink": link})
    with pytest.raises(SourceError, match="the delta link is not an address"):
        odata(service.url, "items", delta=True, spool=str(tmp_path)).plan(None)


def test_a_delta_link_is_kept_without_credentials(service, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY", "s3cret")
    link = "/odata/items?$deltatoken=1&key=s3cret"
    service.server.routes["/odata/items"] = lambda _: Reply({"value": [{"id": 1}], "@odata.deltaLink": link})
    reader = odata(service.url, "items", delta=True, auth=ApiKey("env:KEY", parameter="key"), spool=str(tmp_path))
    token = reader.plan(None).cursor.value["token"]
    assert token.replace("%24", "$").endswith("/odata/items?$deltatoken=1")


@pytest.mark.parametrize("name", ["error", "@odata.error"])
def test_an_error_in_a_response(service, tmp_path, name):
    service.server.routes["/odata/items"] = lambda _: Reply({name: {"code": "x", "message": "broken"}, "value": []})
    with pytest.raises(SourceError, match="the service returned an error: got broken"):
        odata(service.url, "items", spool=str(tmp_path)).plan(None)


def test_types_of_the_metadata(service, tmp_path):
    columns = ServiceMetadata.of(METADATA, HERE).columns("items")
    assert columns.as_dict() == {
        "id": "BIGINT",
        "name": "VARCHAR",
        "price": "DECIMAL(12,2)",
        "amount": "VARCHAR",
        "colors": "VARCHAR[]",
        "address": 'STRUCT("Street" VARCHAR, "No" SMALLINT)',
        "more": "VARCHAR",
        "at": "TIMESTAMPTZ",
        "key": "VARCHAR",
        "ok": "BOOLEAN",
        "day": "DATE",
        "small": "SMALLINT",
    }
    service.changes = [{"id": 1, "price": 2, "address": None, "unknown": 5}]
    reader = odata(service.url, "items", spool=str(tmp_path))
    schema = reader.schema(reader.plan(None).splits[0].source_object).as_dict()
    assert {"id": "BIGINT", "price": "DECIMAL(12,2)", "unknown": "BIGINT"}.items() <= schema.items()
    del service.server.routes["/odata/$metadata"]
    assert reader.schema(reader.plan(None).splits[0].source_object).as_dict()["price"] == "BIGINT"
    assert ServiceMetadata.of(METADATA, HERE).columns("other") is None


def test_metadata_that_is_refused():
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>'
    with pytest.raises(SourceError, match="has a document type, which is not read"):
        ServiceMetadata.of(bomb, HERE)
    with pytest.raises(SourceError, match="is not valid XML: got no element found"):
        ServiceMetadata.of(b"", HERE)


def entity(*types: str) -> bytes:
    return f"""<Schema Namespace="S">{"".join(types)}<EntityContainer><EntitySet Name="items" EntityType="S.T0"/>
        </EntityContainer></Schema>""".encode()


def complex_type(name: str, *properties: str, more: str = "") -> str:
    listed = "".join(f'<Property Name="p{n}" Type="{each}"/>' for n, each in enumerate(properties))
    return f'<ComplexType Name="{name}" {more}>{listed}</ComplexType>'


def test_the_text_of_a_type_is_short():
    own = entity(complex_type("T0", *["S.T0", "Edm.Int32"] * 4), complex_type("T1", "S.T0"))
    assert max(map(len, ServiceMetadata.of(own, HERE).columns("items").as_dict().values())) < 200
    wide = entity(*(complex_type(f"T{n}", *[f"S.T{n + 1}"] * 8) for n in range(9)), complex_type("T9", "Edm.Int32"))
    found = ServiceMetadata.of(wide, HERE).columns("items").as_dict()
    assert len("".join(found.values())) < 100_000
    loop = entity('<ComplexType Name="T0" BaseType="S.T0"/>', '<TypeDefinition Name="D" UnderlyingType="S.D"/>')
    assert ServiceMetadata.of(loop, HERE).columns("items").names == ()


def test_types_that_contain_themselves():
    text = METADATA.replace(b'Name="Street" Type="Edm.String"', b'Name="Street" Type="Self.Address"')
    assert "STRUCT" in ServiceMetadata.of(text, HERE).columns("items").as_dict()["address"]


@given(garbage=st.binary(max_size=80))
def test_garbage_is_an_error_or_has_no_types(garbage):
    try:
        found = ServiceMetadata.of(garbage, HERE)
    except SourceError:
        return
    assert found.columns("items") is None


def test_options_that_are_refused():
    with pytest.raises(DefinitionError, match="delta=True and cursor= cannot be combined"):
        odata("https://example.com", "items", delta=True, cursor="id")
