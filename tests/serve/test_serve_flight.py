"""Flight SQL, asked by the ADBC driver: what it returns is what the REST interface returns to the same key."""

from __future__ import annotations

import base64
import time
from contextlib import contextmanager

import adbc_driver_flightsql.dbapi as driver
import pyarrow as pa
import pytest
from adbc_driver_flightsql import DatabaseOptions
from adbc_driver_manager import DatabaseError, OperationalError
from pyarrow import flight

from pipeline.governance.audit_records import records
from serve.flight.messages import encoded, packed, parse
from serve.flight.server import FlightServer
from serve.http_errors import HttpError
from tests.serve.test_serve_access import ROWS, make
from tests.serve.test_serve_background import LONG
from tests.serve.test_serve_sql import ALLOWED, REFUSED


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shop"), ROWS)


@pytest.fixture(scope="module")
def client(shop):
    with shop.client(key="") as client:
        yield client


@pytest.fixture(scope="module")
def address(client):
    server = FlightServer(client.app.state.backend, "127.0.0.1", 0)
    yield f"grpc://127.0.0.1:{server.port}"
    server.close()


@pytest.fixture(scope="module")
def key(shop):
    return shop.key(scopes=["read", "query"], roles=["sales-eu"], claims={"region": "EU"})


@contextmanager
def connected(address, key):
    options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {key}"} if key else {}
    with driver.connect(address, db_kwargs=options, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def connection(address, key):
    with connected(address, key) as connection:
        yield connection


def ask(connection, sql) -> pa.Table:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetch_arrow_table()


def test_rows_are_those_of_the_rest_interface(connection, client, key):
    for sql in ALLOWED:
        answer = client.post(
            "/v1/query",
            json={"sql": sql, "limit": "all"},
            headers={"Authorization": f"Bearer {key}", "Accept": "application/vnd.apache.arrow.stream"},
        )
        assert ask(connection, sql).equals(pa.ipc.open_stream(answer.content).read_all()), sql


@pytest.mark.share(3)
@pytest.mark.parametrize("sql", [sql for sql in REFUSED if sql and "\x00" not in sql])
def test_what_the_rest_interface_refuses(connection, shop, sql):
    with pytest.raises(DatabaseError) as caught:
        ask(connection, sql.replace("{lake}", str(shop.root / ".headwater" / "lake")))
    assert "4000-" not in str(caught.value).replace("'4000-1'", "")
    assert "region = " not in str(caught.value)


def test_drivers_see_the_tables_that_the_key_may_read(connection):
    objects = connection.adbc_get_objects(depth="all").read_all().to_pylist()
    (catalog,) = objects
    (schema,) = catalog["catalog_db_schemas"]
    tables = {
        table["table_name"]: [c["column_name"] for c in table["table_columns"]] for table in schema["db_schema_tables"]
    }
    assert (catalog["catalog_name"], schema["db_schema_name"]) == ("shop", "main")
    assert tables == {
        "orders": ["id", "region", "email", "amount"],
        "totals": ["region", "amount"],
        "plain": ["id", "amount"],
    }
    assert connection.adbc_get_table_types() == ["TABLE"]
    assert connection.adbc_get_table_schema("orders").names == ["id", "region", "email", "amount"]
    assert connection.adbc_get_info()["vendor_name"] == "Headwater"
    filtered = connection.adbc_get_objects(depth="tables", table_name_filter="to%").read_all().to_pylist()
    assert [t["table_name"] for t in filtered[0]["catalog_db_schemas"][0]["db_schema_tables"]] == ["totals"]


def test_keys_and_foreign_keys(address, key):
    client = flight.connect(address)
    options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {key}".encode())])

    def get(command, **fields):
        numbers = {int(name[1:]): value for name, value in fields.items()}
        info = client.get_flight_info(flight.FlightDescriptor.for_command(packed(command, numbers)), options)
        rows = client.do_get(info.endpoints[0].ticket, options).read_all()
        assert rows.schema == info.schema
        return rows.to_pylist()

    assert [row["column_name"] for row in get("CommandGetPrimaryKeys", f3=b"totals")] == ["region"]
    assert get("CommandGetPrimaryKeys", f3=b"staff_only") == []
    assert get("CommandGetImportedKeys", f3=b"orders") == []
    client.close()


def test_credentials(address, key, shop):
    basic = {"username": "anyone", "password": key}
    with driver.connect(address, db_kwargs=basic, autocommit=True) as connection:
        assert ask(connection, "select count(*) as n from orders").to_pylist() == [{"n": 3}]
    header = base64.b64encode(f"x:{key}".encode()).decode()
    options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Basic {header}"}
    with driver.connect(address, db_kwargs=options, autocommit=True) as connection:
        assert ask(connection, "select 1 as x").num_rows == 1
    for wrong, problem in (
        ("", "a key or token is needed; send one with the scope 'query'"),
        (shop.key(scopes=["read"]), "lacks the scope"),
        ("hw_x", "not valid"),
    ):
        with connected(address, wrong) as connection, pytest.raises((OperationalError, DatabaseError), match=problem):
            ask(connection, "select 1 as x")


@pytest.mark.parametrize(
    "sql", [LONG, LONG.replace("count(*) as n", "a.id").replace("= 47", "> 0") + " and a.id * 2 = b.id"]
)
def test_a_statement_ends_when_its_client_does(address, shop, client, sql):
    """The first has its first row after hours, the second has rows for hours."""
    key = shop.key(scopes=["query", "read"], roles=["sales-eu"], claims={"region": "EU"})  # rows cost it its limit
    engine = client.app.state.backend.engine
    options = flight.FlightCallOptions(timeout=1.5, headers=[(b"authorization", f"Bearer {key}".encode())])
    with flight.connect(address) as connection:
        descriptor = flight.FlightDescriptor.for_command(packed("CommandStatementQuery", {1: sql.encode()}))
        ticket = connection.get_flight_info(descriptor, options).endpoints[0].ticket
        with pytest.raises((flight.FlightTimedOutError, flight.FlightCancelledError)):
            connection.do_get(ticket, options).read_all()
    until = time.monotonic() + 10
    while engine._deadlines._running:  # noqa: SLF001 - the statements that run
        assert time.monotonic() < until
        time.sleep(0.05)


def test_calls_are_recorded(shop, connection, client):
    ask(connection, "select id from orders")
    client.app.state.backend.audit.close()
    found = [each for each in records(shop.root / ".headwater" / "audit" / "dev") if each["path"] == "/flight"]
    assert [(each["table"], each["rows"]) for each in found if "rows" in each][-1] == ("orders", 3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 20,
        b"\x0a\x05abc",
        encoded({1: b"type.googleapis.com/other.Message"}),
        b"\x0a\xff\xff\xff\xff\x0f",
    ],
)
def test_what_is_no_message_is_refused(content):
    with pytest.raises(HttpError):
        parse(content)
