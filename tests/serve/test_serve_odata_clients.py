"""Clients of OData that others wrote, and our own source, read the service."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import httpx
import pytest

from pipeline.connectors.odata.source import odata
from pipeline.connectors.rest import Bearer
from tests.rigs.in_process_server import served
from tests.rigs.odata_clients import node_client, olingo
from tests.serve.conftest import open_cafe


@pytest.fixture(scope="module")
def cafe(tmp_path_factory):
    return open_cafe(tmp_path_factory.mktemp("cafe"))


@pytest.fixture(scope="module")
def url(cafe):
    with served(cafe.project()) as address:
        yield f"{address}/v1/odata"


def test_our_own_source_reads_it(cafe, url, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_API_KEY", cafe.key())
    reader = odata(url, "cafe_orders", auth=Bearer("env:HEADWATER_API_KEY"), page_size=2, spool=str(tmp_path))
    rows = []
    for split in reader.plan(None).splits:
        with reader.segments.path(split.source_object.stamp + ".ndjson") as path:
            rows += [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert [row["order_id"] for row in rows] == [1, 2, 3, 4, 5]


@pytest.mark.proof
def test_apache_olingo_reads_it_by_its_metadata(cafe, url):
    lines = olingo(url, cafe.key())
    assert "set cups key []: cups=Int32" in lines
    assert (
        "set cafe_orders key [order_id]: order_id=Int64 day=Date paid_at=DateTimeOffset guest=String cups=Int32 price=Decimal rating=Double "
        "is_member=Boolean"
    ) in lines
    assert lines[lines.index("count 2") + 1 :][:2] == [
        "row order_id=4 guest=Žoë 🫖 price=2.5",
        "row order_id=2 guest=Bo price=5.0",
    ]
    assert "pages 3" in lines
    assert "row order_id=5 day=2026-01-07 paid_at=2026-01-07T12:00:00Z rating=" in lines
    assert "row guest=Ann orders=1" in lines
    assert "number 2" in lines
    assert any(line.startswith("error 400 BadRequest there is no property 'nope'") for line in lines)
    assert lines[-2:] == ["row cups=1", "row cups=1"]


@pytest.mark.proof
def test_the_client_of_npm_reads_it(cafe, url):
    some, count, one, named, number, error = (json.loads(line) for line in node_client(url, cafe.key()))
    assert some == [{"order_id": 4, "guest": "Žoë 🫖"}, {"order_id": 2, "guest": "Bo"}]
    assert count == 2
    assert (one["guest"], one["paid_at"], one["rating"]) == ("Bo", "2026-01-05T09:30:00.250000Z", None)
    assert named["orders"] == 1
    assert number == 5
    assert error.startswith("there is no property 'nope'")


def test_pages_of_csv_are_read_as_the_connector_of_tableau_reads_them(cafe, url):
    """Bearer, CSV, and the header `Link` until there is none."""
    page, texts = f"{url.removesuffix('/v1/odata')}/v1/tables/cafe_orders?select=order_id,guest&limit=2", []
    while page:
        answer = httpx.get(page, headers={"Authorization": f"Bearer {cafe.key()}", "Accept": "text/csv"})
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        texts.append(answer.text)
        page = str(httpx.URL(page).join(answer.links["next"]["url"])) if "next" in answer.links else ""
    rows = [row for text in texts for row in csv.DictReader(io.StringIO(text))]
    assert [row["order_id"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert len(texts) == 3
    assert rows[2]["guest"] == 'O\'Hara, "Kit"'
