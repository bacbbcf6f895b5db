"""Databases that fall silent end a read with an error that passes, and long queries do not."""

from __future__ import annotations

import socket
import threading

import pytest

from pipeline import mongodb, mysql, mysql_changes, sql_database
from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.connecting import libpq_url
from pipeline.connectors.databases.mysql import MysqlServer
from pipeline.connectors.databases.postgres_changes.server import connected
from pipeline.connectors.guard.calls import RetryRule
from pipeline.core.errors import SourceUnavailableError
from tests.rigs.mysql import MysqlDatabase
from tests.rigs.tls_proxy import proxy


class Silence:
    """Passes on what a server sends until it is to be silent; the connection stays open."""

    def __init__(self, after_bytes):
        self.left, self.ends = after_bytes, threading.Event()

    def __call__(self, source, target):
        while True:
            try:
                data = source.recv(1 << 16)
                self.left -= len(data)
                if not data or self.left < 0:
                    self.ends.wait(60 if data else 0)
                    return
                target.sendall(data)
            except OSError:
                return


def through(url, port):
    head, _, path = url.rpartition("/")
    return f"{head.rpartition(':')[0]}:{port}/{path}"


@pytest.mark.parametrize("after_bytes", [0, 500], ids=["at once", "in a plan"])
@pytest.mark.parametrize("function", [mysql, mysql_changes])
def test_a_mysql_server_that_falls_silent_is_unavailable(
    maria: MysqlDatabase, monkeypatch, tmp_path, function, after_bytes
):
    monkeypatch.setattr("pipeline.connectors.databases.mysql.ANSWERS_WITHIN_S", 1)
    monkeypatch.setattr("pipeline.connectors.databases.mysql.CONNECTS_WITHIN_S", 1)
    monkeypatch.setattr("pipeline.connectors.databases.connecting._RETRIES", RetryRule(attempts=1, deadline_s=1.0))
    maria.run("create table t (id int primary key)", "insert into t values (1)")
    silence = Silence(after_bytes)
    port = int(maria.url.rpartition(":")[2].partition("/")[0])
    with proxy(port, answers=silence) as proxied:
        url = through(maria.url, proxied)
        if function is mysql:
            reader = mysql(url, "t", cursor="id")
        else:
            reader = mysql_changes(url, "t", spool=str(tmp_path)).table("t")
        with pytest.raises(SourceUnavailableError, match="MySQL is unavailable"):
            reader.plan(None)
        silence.ends.set()


def test_a_mongodb_server_that_falls_silent_is_unavailable(mongo, monkeypatch):
    monkeypatch.setattr("pipeline.connectors.databases.connecting.ANSWERS_WITHIN_S", 1)
    monkeypatch.setattr("pipeline.connectors.databases.mongodb.source._CONNECTS_WITHIN_MS", 1000)
    mongo.insert("t", {"_id": 1})
    silence = Silence(1000)
    port = int(mongo.url.rpartition(":")[2].partition("/")[0])
    with proxy(port, answers=silence) as proxied:
        reader = mongodb(through(mongo.url, proxied), "t")
        with pytest.raises(SourceUnavailableError, match="MongoDB is unavailable"):
            plan_until_it_fails(reader)
        silence.ends.set()


def plan_until_it_fails(reader):
    for _ in range(100):
        reader.plan(None)


def test_tcp_asks_whether_a_silent_server_is_there(pg, maria: MysqlDatabase):
    """A proxy on the same machine acknowledges packets that it does not pass on, so the options are looked at."""
    with connected(DatabaseAddress(pg.url)) as server:
        postgres = socket.socket(fileno=server.connection.fileno())
        try:
            found = [asked_after(postgres)]
        finally:
            postgres.detach()
    with MysqlServer(DatabaseAddress(maria.url)).connected() as session:
        found.append(asked_after(session.connection._sock))  # noqa: SLF001 - the library does not show it
    assert found == [30, 30]
    engine = sql_database(pg.url.replace("postgresql:", "postgresql+psycopg:"), "t").database
    with engine.connected() as session:
        raw = session.connection.connection.driver_connection
        assert raw.info.get_parameters()["keepalives_idle"] == "30"


def asked_after(connection):
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)


@pytest.mark.parametrize(
    ("url", "begins", "idle"),
    [
        ("postgresql+psycopg://jo@db/shop", "postgresql://jo@db/shop?connect_timeout=10&", "keepalives_idle=30"),
        ("postgresql://db/shop?sslmode=require", "postgresql://db/shop?sslmode=require&connect", "keepalives_idle=30"),
        ("postgresql://db/shop?keepalives_idle=5", "postgresql://db/shop?keepalives_idle=5&", "keepalives_idle=5"),
    ],
)
def test_limits_of_a_url_remain(url, begins, idle):
    made = libpq_url(DatabaseAddress(url))
    assert made.startswith(begins)
    assert idle in made
    assert made.count("keepalives_idle") == 1
