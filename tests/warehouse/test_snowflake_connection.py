"""Addresses, credentials and errors of Snowflake: nothing secret is shown, and each error says what to do."""

from __future__ import annotations

import os
import pickle

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pipeline.core.errors import SettingsError, StorageError, StorageUnavailableError
from pipeline.core.settings import load
from pipeline.warehouse import open_warehouse
from pipeline.warehouse.snowflake.connection import private_key_der, snowflake_address
from pipeline.warehouse.snowflake.server_errors import translated

URL = "snowflake://LOADER@my_org-my_Account/ANALYTICS/GOLD?warehouse=LOAD&role=LOADER&private_key=env:KEY"


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key, passphrase: bytes | None = None) -> str:
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden).decode()


def test_an_address_has_the_parts_of_the_url():
    address = snowflake_address(URL)
    assert (address.account, address.database, address.schema, address.user) == (
        *("my_org-my_Account", "ANALYTICS", "GOLD", "LOADER"),
    )
    assert address.location == "snowflake://my_org-my_Account/ANALYTICS/GOLD"


def test_a_key_with_a_passphrase_signs_in(key, monkeypatch, tmp_path):
    (tmp_path / "key.p8").write_text(pem(key, b"open sesame"))
    monkeypatch.setenv("PASSPHRASE", "open sesame")
    url = URL.replace("env:KEY", f"file:{tmp_path}/key.p8&private_key_passphrase=env:PASSPHRASE")
    parameters = snowflake_address(url).parameters()
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    assert parameters["private_key"] == der
    assert parameters["session_parameters"]["TIMEZONE"] == "UTC"
    assert (parameters["warehouse"], parameters["role"]) == ("LOAD", "LOADER")
    assert "password" not in parameters


def test_a_token_signs_in(monkeypatch):
    monkeypatch.setenv("TOKEN", "abc")
    parameters = snowflake_address(URL.replace("private_key=env:KEY", "token=env:TOKEN")).parameters()
    assert (parameters["authenticator"], parameters["token"]) == ("oauth", "abc")


def test_a_password_is_looked_up(monkeypatch):
    monkeypatch.setenv("WORD", "abc")
    parameters = snowflake_address(URL.replace("private_key=env:KEY", "password=env:WORD")).parameters()
    assert parameters.get("password") == os.environ["WORD"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("snowflake://acc/DB", "incomplete: got snowflake://acc/DB; write snowflake://USER@ACCOUNT/DATABASE/SCHEMA"),
        ("snowflake:///DB/S", "incomplete"),
        ("snowflake://u:secret@acc/DB/S", r"contains a password: got snowflake://acc/DB/S; use a key"),
        ("snowflake://u@acc/DB/S?wharehouse=X", "no option 'wharehouse'; did you mean 'warehouse'?"),
        (
            "snowflake://u@acc/DB/S?token=secret",
            "'token' of the warehouse is a credential in plain text; name where it is",
        ),
        ("snowflake://u@acc/DB/S?port=x", "'port' of the warehouse must be a number"),
    ],
)
def test_a_url_that_is_not_one_is_rejected_without_its_secrets(url, message):
    with pytest.raises(SettingsError, match=message) as error:
        snowflake_address(url)
    assert "secret" not in str(error.value)


def test_an_address_without_a_credential_says_so():
    with pytest.raises(SettingsError, match="names no credential: got snowflake://acc/DB/S; add private_key=file:PATH"):
        snowflake_address("snowflake://u@acc/DB/S").parameters()


@pytest.mark.parametrize(
    ("change", "passphrase", "message"),
    [
        (lambda text: text, None, "cannot be opened.*add private_key_passphrase=env:NAME"),
        (lambda text: text, "wrong", "cannot be read.*check the passphrase"),
        (lambda _: "no key", "x", "cannot be read.*check the passphrase, and that it is PEM"),
    ],
)
def test_a_key_that_cannot_be_opened_is_explained(key, change, passphrase, message):
    with pytest.raises(SettingsError, match=f"the private key of Snowflake {message}"):
        private_key_der(change(pem(key, b"open sesame")), passphrase)


def test_a_passphrase_for_an_open_key_is_explained(key):
    with pytest.raises(SettingsError, match=r"cannot be opened.*remove private_key_passphrase"):
        private_key_der(pem(key), "unneeded")


def test_settings_take_references_and_no_secrets(tmp_path):
    file = tmp_path / "headwater.toml"
    file.write_text(f'[project]\ndefinitions = "x.py"\n[env.dev]\nwarehouse = "{URL}"\n')
    warehouse = open_warehouse(load(file, environ={}).warehouse)
    assert "env:KEY" in repr(warehouse)
    file.write_text(f'[project]\ndefinitions = "x.py"\n[env.dev]\nwarehouse = "{URL.replace("env:KEY", "MIIE")}"\n')
    with pytest.raises(SettingsError, match="'warehouse' contains a password in plain text"):
        load(file, environ={})
    pickle.loads(pickle.dumps(warehouse.sessions))  # noqa: S301 - our own
    with pytest.raises(SettingsError, match="unsupported warehouse: got mysql://; set `warehouse`"):
        open_warehouse("mysql://secret@x/y")


class RejectedError(Exception):
    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number


ERRORS = [
    (
        606,
        "No active warehouse selected in the current session.",
        StorageError,
        "no virtual warehouse is selected.*add warehouse=NAME",
    ),
    (608, "Warehouse 'LOAD' is suspended.", StorageError, "the virtual warehouse is suspended.*auto_resume = true"),
    (
        None,
        "Warehouse 'LOAD' is suspended. Use 'alter warehouse LOAD resume'",
        StorageError,
        "the virtual warehouse is suspended",
    ),
    (
        90073,
        "Warehouse 'LOAD' cannot be resumed because resource monitor 'M' has exceeded its quota.",
        StorageError,
        "out of credits.*raise the quota",
    ),
    (
        666,
        "Your account is suspended due to lack of payment method.",
        StorageError,
        "account is suspended.*ask its administrator",
    ),
    (
        2003,
        "SQL compilation error: Database 'X' does not exist or not authorized.",
        StorageError,
        "does not exist, or the role may not use it.*check database",
    ),
    (2043, "Object does not exist, or operation cannot be performed.", StorageError, "does not exist"),
    (3001, "Insufficient privileges to operate on schema 'GOLD'.", StorageError, "lacks a privilege.*grant it"),
    (390100, "Incorrect username or password was specified.", StorageError, "rejects the sign-in"),
    (390144, "JWT token is invalid.", StorageError, "rejects the key pair.*register the public key"),
    (
        390186,
        "Role 'X' specified in the connect string is not granted to this user.",
        StorageError,
        "not granted to the user.*grant role",
    ),
    (
        390189,
        "Role 'X' specified in the connect string does not exist or not authorized.",
        StorageError,
        "the role does not exist",
    ),
    (
        390201,
        "The requested warehouse does not exist or not authorized",
        StorageError,
        "does not exist, or the role may not use it",
    ),
    (
        390303,
        "Invalid OAuth access token.",
        StorageError,
        "token of Snowflake has expired or is invalid.*issue a new token",
    ),
    (390318, "OAuth access token expired.", StorageError, "token of Snowflake has expired"),
    (390198, "Keypair access token expired.", StorageError, "token of Snowflake has expired"),
    (390422, "Incoming request with IP 1.2.3.4 is not allowed to access Snowflake.", StorageError, "network policy"),
    (
        390114,
        "Authentication token has expired. The user must authenticate again.",
        StorageUnavailableError,
        "session of Snowflake ended.*run again",
    ),
    (
        250001,
        "Could not connect to Snowflake backend after 2 attempt(s).",
        StorageUnavailableError,
        "cannot be reached.*network",
    ),
    (
        630,
        "Statement reached its statement or warehouse timeout of 10 second(s) and was canceled.",
        StorageError,
        "time limit",
    ),
    (100090, "Duplicate row detected during DML action", StorageError, "two rows of one key"),
    (123456, "Something new", StorageError, "rejects a statement.*got 123456 .*Something new"),
]


@pytest.mark.parametrize(("number", "text", "kind", "message"), ERRORS)
def test_errors_say_what_to_do(number, text, kind, message):
    error = translated(
        RejectedError(number, f"{(number or 0):06d} (57P03): {text}") if number else ValueError(text),
        "snowflake://a/D/S",
    )
    assert type(error) is kind
    with pytest.raises(kind, match=message):
        raise error
    assert text.partition(".")[0] in str(error)
