"""PostgreSQL's protocol is no way round keys, policies and limits, and nothing that a client sends harms the server."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
import time

import psycopg
import pytest

from pipeline.governance.api_keys import ApiKeys
from pipeline.project.workspace import Workspace
from serve.postgres.server import PostgresEndpoint
from tests.rigs.proofs import some
from tests.serve.test_serve_access import ROWS, make
from tests.serve.test_serve_certificates import authority, tls  # noqa: F401 - fixtures

SSL, CANCEL, VERSION = 80877103, 80877102, 3 << 16


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shop"), ROWS)


@pytest.fixture(scope="module")
def backend(shop):
    with shop.client(key="") as client:
        yield client.app.state.backend


@pytest.fixture(scope="module")
def server(backend):
    server = PostgresEndpoint(backend, "127.0.0.1", 0)
    yield server
    server.close()


def connected(server, key, **options):
    return psycopg.connect(
        host="127.0.0.1", port=server.port, user="me", password=key, dbname="shop", autocommit=True, **options
    )


@pytest.fixture(scope="module")
def keys(shop):
    return {
        "sales": shop.key(scopes=["read", "query"], roles=["sales-eu"], claims={"region": "EU"}),
        "audit": shop.key(scopes=["read", "query"], roles=["audit"]),
        "nobody": shop.key(scopes=["read", "query"]),
    }


def test_callers_see_what_their_policies_show(server, keys):
    with connected(server, keys["sales"]) as sales, connected(server, keys["audit"]) as audit:
        assert sales.execute("select id, email from orders order by id").fetchall() == [
            (1, "a***"),
            (3, "c***"),
            (6, "f***"),
        ]
        assert len(audit.execute("select id, card from orders").fetchall()) == len(ROWS)
        for sql in ("select card from orders", "select id from orders where card = '4000-1'"):
            with pytest.raises(psycopg.errors.UndefinedColumn):
                sales.execute(sql)
        with pytest.raises(psycopg.errors.UndefinedTable):
            sales.execute("select * from staff_only")


def test_the_catalog_has_what_a_caller_may_read(server, keys):
    asked = "select table_name || '.' || column_name from information_schema.columns where table_schema = 'public'"
    seen = {}
    for name, key in keys.items():
        with connected(server, key) as connection:
            seen[name] = {row[0] for row in connection.execute(asked)}
            every = connection.execute("select string_agg(attname, ',') from pg_attribute").fetchone()[0]
            assert ("card" in every) == (name == "audit")
    assert "orders.card" in seen["audit"]
    assert "orders.card" not in seen["sales"]
    assert "orders.email" in seen["sales"]
    assert not any(name.startswith(("orders.", "staff_only.", "hidden_silver.")) for name in seen["nobody"])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"password": " "}, "28P01"), ({"password": "wrong"}, "28P01"), ({"password": "hw_" + "a" * 50}, "28P01"), ({"dbname": "other"}, "3D000"),
        ({"password": "x" * 9_000}, "28P01"),
    ],
)  # fmt: skip
def test_who_may_not_connect(server, keys, options, code):
    settings = {
        "host": "127.0.0.1",
        "port": server.port,
        "user": "me",
        "password": keys["audit"],
        "dbname": "shop",
        **options,
    }
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(**settings)
    assert caught.value.sqlstate in {code, None}  # psycopg has none for errors while it connects
    assert ("there is no database" in str(caught.value)) == (code == "3D000")


def test_a_key_without_the_scope_and_one_that_is_revoked_in_the_session(server, shop):
    with pytest.raises(psycopg.OperationalError, match="lacks the scope 'query'"):
        connected(server, shop.key(scopes=["read"], roles=["audit"]))
    project = shop.project()
    catalog = Workspace(project).catalog
    keys = ApiKeys(catalog, project.settings.env)
    text, made = keys.create("short", scopes=["read", "query"], roles=["audit"])
    with connected(server, text) as connection:
        assert connection.execute("select count(*) from orders").fetchone() == (6,)
        keys.revoke(made.id)
        until = time.monotonic() + 20
        while (code := code_of(connection, "select count(*) from orders")) is None and time.monotonic() < until:
            time.sleep(0.2)
        assert code == "28P01"
    catalog.close()


def test_too_many_statements_are_refused(tmp_path):
    shop = make(tmp_path / "limited", ROWS, serve="requests_per_second = 1\n")
    text = (tmp_path / "limited" / "headwater.toml").read_text().replace("burst = 5000", "burst = 5")
    (tmp_path / "limited" / "headwater.toml").write_text(text)
    with shop.client(key="") as client:
        server = PostgresEndpoint(client.app.state.backend, "127.0.0.1", 0)
        try:
            with connected(server, shop.key(roles=["audit"])) as connection:
                codes = [code_of(connection, "select 1") for _ in range(8)]
            assert codes[:3] == [None] * 3
            assert codes[-1] == "53400"
        finally:
            server.close()


def code_of(connection, sql):
    """The code of the error that a statement ends with, or `None`."""
    try:
        connection.execute(sql)
    except psycopg.Error as error:
        return error.sqlstate
    return None


def test_with_a_certificate_connections_are_encrypted(backend, keys, tls):  # noqa: F811 - the fixture
    server = PostgresEndpoint(backend, "127.0.0.1", 0, tls)
    try:
        with connected(server, keys["audit"], sslmode="require") as connection:
            assert connection.execute("select count(*) from orders").fetchone() == (6,)
        with pytest.raises(psycopg.OperationalError, match="not encrypted"):
            connected(server, keys["audit"], sslmode="disable")
        with socket.create_connection(("127.0.0.1", server.port), 5) as raw:
            startup = struct.pack("!i", VERSION) + b"user\0me\0database\0shop\0\0"
            raw.sendall(struct.pack("!ii", 8, SSL) + struct.pack("!i", len(startup) + 4) + startup)  # before TLS began
            assert received(raw) in {b"", b"S"}
    finally:
        server.close()


def received(raw):
    """All that is sent until the connection is closed, or for a second."""
    raw.settimeout(1)
    content = b""
    with contextlib.suppress(OSError, ssl.SSLError):
        while part := raw.recv(65_536):
            content += part
    return content


def opened(server, key):
    """A socket whose session has started."""
    raw = socket.create_connection(("127.0.0.1", server.port), 5)
    startup = struct.pack("!i", VERSION) + b"user\0me\0database\0shop\0\0"
    raw.sendall(struct.pack("!i", len(startup) + 4) + startup)
    assert raw.recv(9) == b"R" + struct.pack("!ii", 8, 3)
    raw.sendall(message(b"p", key.encode() + b"\0"))
    content = b""
    while not content.endswith(b"Z\0\0\0\x05I"):
        content += raw.recv(65_536)
    return raw


def message(kind, content=b""):
    return kind + struct.pack("!i", len(content) + 4) + content


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 8, struct.pack("!ii", 8, 2 << 16), struct.pack("!ii", 1 << 30, VERSION),
        struct.pack("!ii", 4, 0), struct.pack("!iiii", 16, CANCEL, 1, 1), struct.pack("!ii", 8, CANCEL), struct.pack("!ii", 8, 80877104),
        struct.pack("!ii", 9, VERSION) + b"x", struct.pack("!ii", 8, VERSION) + b"Q" + struct.pack("!i", 13) + b"select 1\0",
    ],
)  # fmt: skip
def test_who_does_not_speak_the_protocol(server, keys, content):
    with socket.create_connection(("127.0.0.1", server.port), 5) as raw:
        raw.sendall(content)
        answer = received(raw)
        assert answer[:1] in {b"", b"E", b"N", b"R"}
        assert b"select" not in answer.lower()
    with connected(server, keys["audit"]) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (message(b"Q", b"select 1"), b"42601"), (message(b"Q", b"select '\xff'\0"), b"42601"), (message(b"B"), b"42601"), (message(b"E", b"none\0\0\0\0\0"), b"34000"), (message(b"D", b"Snone\0"), b"26000"), (message(b"P", b"\0select 1\0\x7f\xff"), b"42601"),
        (message(b"P", b"\0select 1\0\0\x01\0\0\0\x17"), b"42P02"), (message(b"P", b"\0select 1; select 2\0\0\0"), b"42601"), (message(b"F", b"\0"), b"08P01"),
        (message(b"d", b"x"), b"08P01"), (message(b"P", b"\0select $1\0\0\0") + message(b"B", b"\0\0\0\0\0\0\0\0"), b"08P01"),
        (message(b"P", b"\0select $1::int\0\0\0") + message(b"B", b"\0\0\0\x01\0\x01\0\x01\0\0\0\x01x\0\0"), b"42601"),
        (message(b"P", b"\0select $1::int\0\0\0") + message(b"B", b"\0\0\0\x01\0\x07\0\x01\0\0\0\x01x\0\0"), b"08P01"),
        (message(b"P", b"\0select $99999\0\0\0"), b"42601"), (message(b"P", b"\0select " + b"(" * 4_000 + b"\0\0\0"), b"42601"),
    ],
)  # fmt: skip
def test_messages_that_cannot_be_read(server, keys, sent, code):
    with contextlib.closing(opened(server, keys["audit"])) as raw:
        raw.sendall(sent + message(b"S"))
        answer = b""
        while b"Z\0\0\0\x05" not in answer:
            answer += raw.recv(65_536)
        assert b"C" + code + b"\0" in answer, answer
        raw.sendall(message(b"Q", b"select 1\0"))
        answer = b""
        while b"Z\0\0\0\x05" not in answer:
            answer += raw.recv(65_536)
        assert b"SELECT 1\0" in answer


def test_a_message_of_two_megabytes_ends_the_session(server, keys):
    with contextlib.closing(opened(server, keys["audit"])) as raw:
        raw.sendall(b"Q" + struct.pack("!i", 2 << 20))
        assert b"C08P01\0" in received(raw)


@pytest.mark.parametrize("seed", some(range(300), 12))
def test_random_messages_end_no_server(server, keys, seed):
    dice = random.Random(seed)  # noqa: S311 - test data
    begins = [
        b"",
        b"\0",
        b"\0\0",
        b"\0select 1\0\0\0",
        b"Sx\0",
        b"P\0",
        b"select id from orders\0",
        b"\0\0\0\0\0\0\0\0",
    ]
    with contextlib.closing(opened(server, keys["audit"])) as raw, contextlib.suppress(OSError):
        for _ in range(40):
            content = dice.choice(begins) + dice.randbytes(dice.randrange(12))
            raw.sendall(message(dice.choice([b"Q", b"P", b"B", b"D", b"E", b"C", b"H", b"S", b"f", b"x"]), content))
        raw.sendall(message(b"S") + message(b"X"))
        assert b"internal error" not in received(raw)
    with connected(server, keys["sales"]) as connection:
        assert connection.execute("select count(*) from orders").fetchone() == (3,)


def test_a_statement_ends_when_its_client_leaves(server, keys, backend):
    names = [f"t{number}" for number in range(14)]
    long = f"select count(*) from {', '.join(f'orders {name}' for name in names)} where {' + '.join(f'{name}.id' for name in names)} = 47"
    raw = opened(server, keys["audit"])
    raw.sendall(message(b"Q", long.encode() + b"\0"))
    time.sleep(0.4)
    assert are_running(backend)
    raw.close()
    until = time.monotonic() + 5
    while are_running(backend) and time.monotonic() < until:
        time.sleep(0.05)
    assert not are_running(backend)


def are_running(backend):
    """Whether the engine runs statements."""
    return bool(backend.engine._deadlines._running)  # noqa: SLF001 - nothing else says so


def test_only_who_knows_the_secret_cancels(server, keys):
    with connected(server, keys["audit"]) as connection:
        pid = connection.info.backend_pid
        for secret in range(20):
            with socket.create_connection(("127.0.0.1", server.port), 5) as raw:
                raw.sendall(struct.pack("!iiii", 16, CANCEL, pid, secret))
                assert received(raw) == b""
        assert connection.execute("select 1").fetchone() == (1,)
