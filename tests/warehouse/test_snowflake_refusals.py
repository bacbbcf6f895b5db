"""Refusals of Snowflake as the real driver reports them: a server answers sign-ins and statements with their numbers."""

from __future__ import annotations

import gzip
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pipeline.core.errors import StorageError, StorageUnavailableError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner import Runner
from pipeline.warehouse.snowflake.connection import snowflake_address
from pipeline.warehouse.snowflake.engine import SnowflakeWarehouse
from tests.rigs.http_faults import Reply, http_server

jwt = pytest.importorskip("jwt", reason="the extra headwater[snowflake] is not installed")
pytest.importorskip("snowflake.snowpark", reason="the extra headwater[snowflake] is not installed")
SIGNED_IN = {
    "success": True,
    "data": {
        "token": "t",
        "masterToken": "m",
        "serverVersion": "9.9.9",
        "parameters": [],
        "sessionInfo": {"databaseName": "DB", "schemaName": "S", "warehouseName": "W", "roleName": "R"},
    },
}


def refusal(number: str, message: str) -> Reply:
    data = {"errorCode": number, "sqlState": "57P03", "queryId": "01b0-0000"}
    return Reply({"success": False, "code": number, "message": message, "data": data})


@pytest.fixture
def refusing(monkeypatch):
    """Return a function that gives the URL of an account that refuses sign-ins or statements."""
    monkeypatch.setenv("TOKEN", "a secret token")
    with http_server() as server:

        def url_of(reply, *, signs_in):
            server.routes |= {
                "/session/v1/login-request": lambda _: Reply(SIGNED_IN) if signs_in else reply,
                "/queries/v1/query-request": lambda _: reply,
                **dict.fromkeys(("/session", "/telemetry/send"), lambda _: Reply({"success": True, "data": None})),
            }
            port = server.url.rpartition(":")[2]
            return f"snowflake://u@acc/DB/S?token=env:TOKEN&host=127.0.0.1&port={port}&protocol=http&login_timeout=5"

        yield url_of


@pytest.fixture
def refused(refusing):
    """Return a function that gives the warehouse of such an account."""
    return lambda reply, *, signs_in: SnowflakeWarehouse(snowflake_address(refusing(reply, signs_in=signs_in)))


SIGN_INS = [
    ("390144", "JWT token is invalid. [0ce9]", StorageError, "rejects the key pair"),
    ("390318", "OAuth access token expired. [0ce9]", StorageError, "token of Snowflake has expired"),
    ("390303", "Invalid OAuth access token. [0ce9]", StorageError, "token of Snowflake has expired or is invalid"),
    ("390100", "Incorrect username or password was specified.", StorageError, "rejects the sign-in"),
    (
        "390189",
        "Role 'X' specified in the connect string does not exist or not authorized.",
        StorageError,
        "role does not exist",
    ),
    (
        "390422",
        "Incoming request with IP/Token 1.2.3.4 is not allowed to access Snowflake.",
        StorageError,
        "network policy",
    ),
]
STATEMENTS = [
    (
        "000606",
        "No active warehouse selected in the current session.",
        StorageError,
        "no virtual warehouse is selected",
    ),
    ("000608", "Warehouse 'W' is suspended.", StorageError, "virtual warehouse is suspended.*auto_resume = true"),
    (
        "090073",
        "Warehouse 'W' cannot be resumed because resource monitor 'M' has exceeded its quota.",
        StorageError,
        "out of credits",
    ),
    ("000666", "Your account is suspended due to lack of payment method.", StorageError, "account is suspended"),
    (
        "002003",
        "SQL compilation error:\nSchema 'DB.S' does not exist or not authorized.",
        StorageError,
        "does not exist, or the role may not use it.*Schema 'DB.S'",
    ),
    (
        "003001",
        "SQL access control error:\nInsufficient privileges to operate on schema 'S'.",
        StorageError,
        "lacks a privilege.*schema 'S'",
    ),
    ("000630", "Statement reached its statement or warehouse timeout of 10 second(s).", StorageError, "time limit"),
    ("000625", "Statement has waited too long for a lock.", StorageUnavailableError, "holds a lock"),
]


@pytest.mark.parametrize(("number", "text", "kind", "message"), SIGN_INS)
def test_a_refused_sign_in_is_explained(refused, number, text, kind, message):
    with pytest.raises(kind, match=message) as error:
        refused(refusal(number, text), signs_in=False).loaded()
    assert type(error.value) is kind
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(("number", "text", "kind", "message"), STATEMENTS)
def test_a_refused_statement_is_explained(refused, number, text, kind, message):
    with pytest.raises(kind, match=f"(?s){message}") as error:
        refused(refusal(number, text), signs_in=True).require_writable()
    assert type(error.value) is kind


PROJECT = """
from pipeline import generate, mart, source, sql

raw = source(generate({"id": "i"}, count=3), schema={"id": "bigint"})
sales = mart("select count(*) as n from raw")
plain = sql("select id from raw")
"""
STOPPED = [row for row in STATEMENTS if row[0] in {"000608", "090073"}]


@pytest.mark.parametrize("stopped", STOPPED, ids=lambda row: row[0])
def test_a_run_commits_to_the_lake_and_says_why_the_warehouse_was_not_loaded(refusing, tmp_path, stopped):
    number, text, kind, message = stopped
    url = refusing(refusal(number, text), signs_in=True)
    (tmp_path / "headwater.toml").write_text(f'[project]\ndefinitions = "shop.py"\n[env.dev]\nwarehouse = "{url}"\n')
    (tmp_path / "shop.py").write_text(PROJECT)
    runner = Runner(load(tmp_path))
    with pytest.raises(kind, match=f"(?s){message}"):
        runner.run()
    assert set(runner.errors) == {"sales"}
    workspace = Workspace(load(tmp_path))
    assert workspace.query("select n from sales").to_pylist() == [{"n": 3}]
    assert workspace.require("plain").rows == 3


def test_a_key_pair_is_sent_as_a_signed_token_and_a_passphrase_is_not(monkeypatch):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    hidden = serialization.BestAvailableEncryption(b"open sesame")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden).decode()
    monkeypatch.setenv("KEY", pem)
    monkeypatch.setenv("PASSPHRASE", "open sesame")
    with http_server() as server:
        server.routes["/session/v1/login-request"] = lambda _: refusal("390144", "JWT token is invalid.")
        port = server.url.rpartition(":")[2]
        url = f"snowflake://loader@acc/DB/S?host=127.0.0.1&port={port}&protocol=http&login_timeout=5"
        warehouse = SnowflakeWarehouse(
            snowflake_address(f"{url}&private_key=env:KEY&private_key_passphrase=env:PASSPHRASE")
        )
        with pytest.raises(StorageError, match=r"rejects the key pair.*register the public key"):
            warehouse.loaded()
        body = server.received[0].body
    sent = json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)["data"]
    assert sent["AUTHENTICATOR"] == "SNOWFLAKE_JWT"
    claims = jwt.decode(sent["TOKEN"], key.public_key(), algorithms=["RS256"])
    assert claims["sub"] == "ACC.LOADER"
    assert b"sesame" not in body


def test_an_account_that_is_not_there_is_explained(monkeypatch):
    monkeypatch.setenv("TOKEN", "a secret token")
    url = "snowflake://u@acc/DB/S?token=env:TOKEN&host=127.0.0.1&port=9&protocol=http&login_timeout=1"
    with pytest.raises(StorageUnavailableError, match=r"cannot be reached.*check the account"):
        SnowflakeWarehouse(snowflake_address(url)).loaded()
