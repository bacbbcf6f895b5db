"""Clients of remote stores: which library and options a URI needs, and a connection to its store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from pipeline.connectors.certificates import trusting
from pipeline.core.credentials import secret
from pipeline.core.errors import DefinitionError, Place, SettingsError, did_you_mean
from pipeline.core.extras import imports_of
from pipeline.core.object_store_options import S3_OPTIONS, aws_options, s3_client_options

if TYPE_CHECKING:
    import fsspec

SCHEMES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "abfs",
    "abfs": "abfs",
    "abfss": "abfs",
    "sftp": "sftp",
    "ftp": "ftp",
    "ftps": "ftps",
    "http": "http",
    "https": "https",
}
"""The schemes of URIs, with the scheme that locations have."""
OBJECT_STORES, HTTP, FTP = ("s3", "gs", "abfs"), ("http", "https"), ("ftp", "ftps")
_EXTRAS = {"s3": "s3", "gs": "gcs", "abfs": "azure", "sftp": "sftp", "http": "http", "https": "http"}
_NAMES = {
    "s3": ("anon", *S3_OPTIONS),
    "gs": ("token", "project", "endpoint_url", "anon"),
    "abfs": (
        "account_name",
        "account_host",
        "account_key",
        "sas_token",
        "connection_string",
        "tenant_id",
        "client_id",
        "client_secret",
        "anon",
    ),
    "sftp": ("username", "password", "key_filename", "passphrase", "host_key", "known_hosts", "timeout"),
    "ftp": ("username", "password", "encoding", "timeout"),
    "ftps": ("username", "password", "encoding", "timeout", "ca"),
    "http": ("username", "password", "token", "timeout", "allowed_hosts", "ca"),
}
_NAMES["https"] = _NAMES["http"]
_HEADER = "header:"
_SECRET_PARAMETERS = {
    "sig",
    "signature",
    "x-amz-signature",
    "x-goog-signature",
    "token",
    "access_token",
    "api_key",
    "apikey",
}
_TIMEOUT_S = 60.0
_PUBLIC_AZURE = ".core.windows.net"


@dataclass(frozen=True)
class RemoteClient:
    """The store of a URI: its scheme, its host with the port, and the options of its client."""

    scheme: str
    host: str
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, uri: str, options: Mapping[str, str]) -> RemoteClient:
        """Return the client for a URI.

        Raises `DefinitionError` for an unknown scheme or option, and for a URI that contains a password or a token.
        """
        scheme = SCHEMES.get(uri.partition("://")[0].lower())
        if scheme is None:
            raise DefinitionError(
                "files cannot be read from this kind of URI",
                got=f"{uri.partition('://')[0]}://",
                do=f"use a path, or a URI with {', '.join(SCHEMES)}",
            )
        _require_no_secret(uri, scheme)
        _require_known(options, scheme)
        parts = urlsplit(uri)
        named: dict[str, str] = {}
        if parts.username and scheme in {"sftp", *FTP}:
            named = {"username": parts.username}
        elif parts.username and scheme == "abfs":  # abfs://container@account.dfs.core.windows.net/path
            named = _azure_account(parts.netloc.rpartition("@")[2])
        host = parts.netloc.rpartition("@")[2] if scheme not in OBJECT_STORES else ""
        return cls(scheme, host, tuple(sorted({**named, **options}.items())))

    def path(self, location: str) -> str:
        """Return the path of a location, as the client takes it."""
        if self.scheme in HTTP:
            return location
        host, slash, rest = location.partition("://")[2].partition("/")
        return f"{host.partition('@')[0]}{slash}{rest}" if self.scheme in OBJECT_STORES else f"/{rest}"

    def location(self, path: str) -> str:
        """Return the location of a path, as the client returns it."""
        return path if self.scheme in HTTP else f"{self.scheme}://{self.host}{path}"

    @contextmanager
    def connected(self) -> Iterator[fsspec.AbstractFileSystem]:
        """Yield a client; it has no cache of listings, because other processes write too.

        Raises `SourceError` if its library is not installed, `SettingsError` for a credential that is not set.
        """
        client = _client_class(self.scheme)(**self._arguments())
        try:
            yield client
        finally:
            if self.scheme == "sftp":
                client.client.close()
            elif self.scheme in FTP:
                client.ftp.close()

    def _arguments(self) -> dict[str, Any]:
        values = {name: secret(value, f"the option {name!r}") for name, value in self.options}
        if self.scheme == "s3":
            anonymous = {"anon": True} if values.pop("anon", "") == "true" else {}
            environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            return {**s3_client_options({**environment, **values}), **anonymous}
        if self.scheme in HTTP:
            return _http_arguments(values, self.host)
        if self.scheme in {"gs", "abfs"}:
            anonymous = {"anon": True} if values.pop("anon", "") == "true" else {}
            if self.scheme == "abfs":
                _require_account(values)
            return {**values, **anonymous, "use_listings_cache": False}
        address, _, port = self.host.partition(":")
        timeout = {"timeout": float(values.pop("timeout", _TIMEOUT_S))}
        at: dict[str, Any] = {"host": address, "port": int(port)} if port else {"host": address}
        if self.scheme == "sftp":
            return {**at, **_sftp_arguments(values, self.host), **timeout, "skip_instance_cache": True}
        if self.scheme == "ftps":
            at["trusted"] = trusting(values.pop("ca", None), Place(f"ftps://{self.host}"))
        return {**at, **values, **timeout, "use_listings_cache": False}


def _client_class(scheme: str) -> type[fsspec.AbstractFileSystem]:
    with imports_of(_EXTRAS.get(scheme, ""), f"reading files from {scheme}://"):
        if scheme == "abfs":
            from pipeline.connectors.files.azure_blobs import AzureBlobs  # noqa: PLC0415 - needs the extra

            return AzureBlobs
        if scheme == "gs":
            from pipeline.connectors.files.google_storage import GoogleStorage  # noqa: PLC0415 - needs the extra

            return GoogleStorage
        if scheme in FTP:
            from pipeline.connectors.files.ftp_client import FtpFiles  # noqa: PLC0415 - most projects have no FTP

            return FtpFiles
        import fsspec  # noqa: PLC0415 - most projects have only local files

        found: type[fsspec.AbstractFileSystem] = fsspec.get_filesystem_class(scheme)
        return found


def _azure_account(host: str) -> dict[str, str]:
    """Return the options for the host in `abfs://container@host/path`: the account, and its host outside of the public cloud."""
    account, _, domain = host.partition(".")
    if not domain or host.endswith(_PUBLIC_AZURE):
        return {"account_name": account}
    return {"account_name": account, "account_host": host.replace(".dfs.", ".blob.", 1)}


def _require_account(values: Mapping[str, str]) -> None:
    names = ("connection_string", "account_name")
    if not any(values.get(name) or os.environ.get(f"AZURE_STORAGE_{name.upper()}") for name in names):
        raise SettingsError(
            "the files of Azure need an account",
            do='pass options={"account_name": …} or {"connection_string": "env:NAME"}, or write it in the URI: '
            "abfs://container@account.dfs.core.windows.net/path",
        )


def _sftp_arguments(values: dict[str, str], host: str) -> dict[str, Any]:
    with imports_of("sftp", "reading files from sftp://"):
        from pipeline.connectors.files.ssh_host_keys import KnownHostKeys  # noqa: PLC0415 - needs the extra

    policy = KnownHostKeys(host, values.pop("host_key", ""), values.pop("known_hosts", ""))
    keys = {"look_for_keys": False, "allow_agent": False} if "password" in values else {}
    return {**values, **keys, "host_key_policy": policy}


def _http_arguments(values: Mapping[str, str], host: str) -> dict[str, Any]:
    with imports_of("http", "reading files from http://"):
        import aiohttp  # noqa: PLC0415 - an extra

        from pipeline.connectors.files.http_session import checked_session  # noqa: PLC0415 - needs the extra

    headers = {name.removeprefix(_HEADER): value for name, value in values.items() if name.startswith(_HEADER)}
    if "token" in values:
        headers["Authorization"] = f"Bearer {values['token']}"
    login = {"auth": aiohttp.BasicAuth(values["username"], values.get("password", ""))} if "username" in values else {}
    seconds = float(values.get("timeout", _TIMEOUT_S))
    return {
        # a response must not be decompressed, because the name of a file says how it is compressed
        "headers": {**headers, "Accept-Encoding": "identity"},
        "get_client": checked_session,
        "client_kwargs": {
            **login,
            "allowed_hosts": (urlsplit(f"//{host}").hostname, *values.get("allowed_hosts", "").split(",")),
            "ca": values.get("ca"),
            "auto_decompress": False,
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds),
        },
        "use_listings_cache": False,
    }


def _require_no_secret(uri: str, scheme: str) -> None:
    parts = urlsplit(uri)
    try:
        _ = parts.port if scheme in {"sftp", "ftp", "ftps"} else None
    except ValueError as error:  # perhaps user:password, up to a slash in the password
        raise DefinitionError(
            "the port in a URI of files is no number", do='a password is passed by options={"password": "env:NAME"}'
        ) from error
    if parts.password is not None:
        raise DefinitionError(
            "a URI of files must not contain a password",
            got=f"{parts.scheme}://{parts.username}:…@{parts.netloc.rpartition('@')[2]}",
            do='pass options={"username": …, "password": "env:NAME"}',
        )
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)] if scheme in HTTP else []
    signed = next((name for name in names if name.lower() in _SECRET_PARAMETERS), None)
    if signed is not None:
        raise DefinitionError(
            "a URL of files must not contain a token or a signature, because it is stored with each row",
            got=f"the parameter {signed!r}",
            do='pass it as a header: options={"header:X-Api-Key": "env:NAME"} or options={"token": "env:NAME"}',
        )


def _require_known(options: Mapping[str, str], scheme: str) -> None:
    known = _NAMES[scheme]
    given = aws_options(options) if scheme == "s3" else options
    for name, value in given.items():
        is_header = scheme in HTTP and name.startswith(_HEADER)
        if name not in known and not is_header:
            raise DefinitionError(
                f"options= has an unknown name for {scheme}://", got=repr(name), do=did_you_mean(name, known)
            )
        if not isinstance(value, str):
            raise DefinitionError(
                f"the option {name!r} must be text", got=type(value).__name__, do="write it in quotes"
            )
