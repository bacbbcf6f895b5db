"""The URL of a Snowflake account, and how a session signs in.

    snowflake://LOADER@my_org-my_account/ANALYTICS/GOLD?warehouse=LOAD&role=LOADER&private_key=file:/run/secrets/key.p8

Credentials are references (`env:NAME`, `file:PATH`, `aws:NAME`), which are looked up when a session is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pipeline.core.credentials import is_reference, secret
from pipeline.core.errors import SettingsError, did_you_mean
from pipeline.core.extras import imports_of

SCHEME = "snowflake"
FORM = "snowflake://USER@ACCOUNT/DATABASE/SCHEMA?warehouse=NAME&role=NAME&private_key=file:PATH"
_CREDENTIALS = ("private_key", "private_key_passphrase", "token", "password")
_NUMBERS = ("port", "network_timeout", "login_timeout")
_OPTIONS = ("warehouse", "role", "authenticator", "host", "protocol", *_NUMBERS, *_CREDENTIALS)
_SESSION = {"TIMEZONE": "UTC", "CLIENT_TELEMETRY_ENABLED": False, "QUERY_TAG": "headwater"}
"""Times are shown and converted in UTC, whatever the account's default is."""


@dataclass(frozen=True)
class SnowflakeAddress:
    """The parts of the URL; credentials are references, so it can be shown."""

    account: str
    database: str
    schema: str
    user: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def location(self) -> str:
        """The account, database and schema, for messages."""
        return f"{SCHEME}://{self.account}/{self.database}/{self.schema}"

    def parameters(self) -> dict[str, Any]:
        """Return what a session is opened with, including credentials: never show it.

        Raises `SettingsError` if a credential is missing or cannot be read.
        """
        given = {n: int(v) if n in _NUMBERS else v for n, v in self.options.items() if n not in _CREDENTIALS}
        return {
            "account": self.account,
            "user": self.user,
            "database": self.database,
            "schema": self.schema,
            "login_timeout": 60,
            "platform_detection_timeout_seconds": 0,  # it asks the clouds' metadata services, which costs seconds elsewhere
            "session_parameters": dict(_SESSION),
            **given,
            **self._signed_in(),
        }

    def _signed_in(self) -> dict[str, Any]:
        if "private_key" in self.options:
            passphrase = self.options.get("private_key_passphrase")
            return {
                "private_key": private_key_der(
                    secret(self.options["private_key"], "the private key of Snowflake"),
                    None if passphrase is None else secret(passphrase, "the passphrase of Snowflake's private key"),
                )
            }
        if "token" in self.options:
            return {
                "authenticator": self.options.get("authenticator", "oauth"),
                "token": secret(self.options["token"], "the token of Snowflake"),
            }
        if "password" in self.options:
            return {"password": secret(self.options["password"], "the password of Snowflake")}
        raise SettingsError(
            "the warehouse names no credential",
            got=self.location,
            do="add private_key=file:PATH (a PKCS#8 key), or token=env:NAME with an OAuth token",
        )


def snowflake_address(url: str) -> SnowflakeAddress:
    """Return the parts of a `snowflake://` URL; raise `SettingsError` if it is incomplete or contains a credential."""
    parts = urlsplit(url)
    database, _, schema = parts.path.strip("/").partition("/")
    account = unquote(parts.netloc.rpartition("@")[2])  # `hostname` would be in lower case
    if not account or not database or not schema or "/" in schema:
        raise SettingsError("the URL of the warehouse is incomplete", got=_shown(url), do=f"write {FORM}")
    if parts.password is not None:
        raise SettingsError(
            "the URL of the warehouse contains a password",
            got=_shown(url),
            do="use a key: private_key=file:PATH (Snowflake blocks password sign-ins of service users)",
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in options.items():
        if name not in _OPTIONS:
            raise SettingsError(f"the warehouse has no option {name!r}", do=did_you_mean(name, _OPTIONS))
        if name in _NUMBERS and not value.isdecimal():
            raise SettingsError(f"{name!r} of the warehouse must be a number", got=repr(value))
        if name in _CREDENTIALS and not is_reference(value):
            raise SettingsError(
                f"{name!r} of the warehouse is a credential in plain text",
                do=f"name where it is: {name}=env:NAME or {name}=file:PATH",
            )
    return SnowflakeAddress(account, unquote(database), unquote(schema), unquote(parts.username or ""), options)


def _shown(url: str) -> str:
    """Return a URL without its user, password and options."""
    parts = urlsplit(url)
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":  # a / ? or # of a password that is not percent-encoded
        return f"{SCHEME}://…"
    return f"{SCHEME}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def private_key_der(pem: str, passphrase: str | None) -> bytes:
    """Return a private key of PKCS#8 or PKCS#1 in PEM as the DER bytes of PKCS#8, which the driver takes.

    Raises `SettingsError` for a text that is no private key, and for a missing or wrong passphrase; the error does not
    contain the key.
    """
    with imports_of("snowflake", "a key pair of Snowflake"):
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - only for key pairs
    try:
        key = serialization.load_pem_private_key(pem.encode(), None if passphrase is None else passphrase.encode())
    except TypeError as error:
        do = "remove private_key_passphrase" if passphrase is not None else "add private_key_passphrase=env:NAME"
        raise SettingsError("the private key of Snowflake cannot be opened", got=str(error), do=do) from None
    except ValueError as error:
        raise SettingsError(
            "the private key of Snowflake cannot be read",
            got=str(error).partition("\n")[0],
            do="check the passphrase, and that it is PEM: openssl genrsa 2048 | openssl pkcs8 -topk8 -out key.p8",
        ) from None
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
