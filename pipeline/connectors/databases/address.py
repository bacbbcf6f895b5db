"""Where a database is: a URL without a password, and the password by reference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, unquote_plus, urlsplit, urlunsplit

from pipeline.core.credentials import is_reference, secret
from pipeline.core.errors import DefinitionError, HeadwaterError, SettingsError

_SECRET_OPTIONS = frozenset(
    {"password", "passwd", "pwd", "sslpassword", "token", "private_key", "privatekey", "access_token", "passcode"}
)
_ODBC_SECRET = re.compile(r"(?:^|;)\s*(?:password|pwd)\s*=\s*(\{[^}]*\}|[^;]*)", re.IGNORECASE)
"""A password in the connection string of ODBC, which is the value of an option."""
_HOST = re.compile(r"(?:\[[^\[\]]*\]|[^:\[\]]*)(?::[0-9]*)?")
_ENCODED = "percent-encode / ? # and @ in the user and the password: %2F %3F %23 %40"


@dataclass(frozen=True)
class DatabaseAddress:
    """The URL of a database, or a reference to one, and a reference to the password."""

    url: str
    """A URL without a password, or `env:NAME` or `file:PATH` of a URL, which may have one."""
    password: str | None = None
    """A reference to the password."""
    scheme: str = ""
    """The scheme of a URL that may be written without one, which its driver expects."""

    def __post_init__(self) -> None:
        """Raise `DefinitionError` for a password that is written out, and for a text that is no URL."""
        if not is_reference(self.url):
            try:
                parts = self._parts(self.url)
            except SettingsError as error:
                raise DefinitionError(error.problem, do=error.do) from error
            if any(_secrets(parts)):
                raise DefinitionError(
                    "the URL of a database contains a password",
                    do='remove it, and pass password="env:NAME", or the entire URL as "env:NAME"',
                )
        if self.password is not None and not is_reference(self.password):
            raise DefinitionError("password= must be a reference", do='pass password="env:NAME" or "file:PATH"')

    def connection_url(self) -> str:
        """Return the URL with its password; raise `SettingsError` if a reference leads nowhere, or not to a URL."""
        url = secret(self.url, "the URL of a database")
        parts = self._parts(url)
        if self.password is None:
            return self._written(url)
        user, _, host = parts.netloc.rpartition("@")
        password = quote(secret(self.password, "the password of a database"), safe="")
        return self._written(urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{password}@{host}")))

    def public(self) -> str:
        """Return scheme, host, port and database, without user, password and options, as `_source` and errors show it.

        Raises `SettingsError` if a reference leads nowhere, or not to a URL.
        """
        parts = self._parts(secret(self.url, "the URL of a database"))
        scheme, path = parts.scheme.partition("+")[0], parts.path.rpartition("@")[2]
        return f"{scheme}://{parts.netloc.rpartition('@')[2]}/{unquote(path).strip('/')}".rstrip("/")

    def redacted(self, text: str) -> str:
        """Return a message of a driver without passwords."""
        try:
            secrets = set(_secrets(self._parts(self.connection_url())))
        except HeadwaterError:
            return text
        for each in sorted({form for value in secrets for form in (value, unquote(value))}, key=len, reverse=True):
            text = text.replace(each, "…")
        return text

    def _written(self, url: str) -> str:
        return url.removeprefix(f"{self.scheme}://") if self.scheme else url

    def _parts(self, url: str) -> SplitResult:
        """Return the parts of a URL; raise `SettingsError`, which does not show it, if they are not clear."""
        scheme, mark, _ = url.partition("://")
        if self.scheme and not mark:
            url, scheme, mark = f"{self.scheme}://{url}", self.scheme, "://"
        if not mark or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
            raise SettingsError(
                "this is not the URL of a database", do="write it as scheme://user@host/database, without a password"
            )
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise SettingsError("this is not the URL of a database", do=_ENCODED) from error
        hosts = parts.netloc.rpartition("@")[2].split(",")
        first_option = parts.query.partition("@")[0]
        is_cut = bool(parts.netloc) and "@" in f"{parts.path}{parts.fragment}"  # at a / or a # of the password
        if is_cut or ("@" in parts.query and "=" not in first_option) or not all(map(_HOST.fullmatch, hosts)):
            raise SettingsError("the user, the password or the host in the URL of a database is not clear", do=_ENCODED)
        return parts


def _secrets(parts: SplitResult) -> Iterator[str]:
    """Yield the passwords in a URL, as they are written."""
    if parts.password:
        yield parts.password
    for name, _, value in (option.partition("=") for option in parts.query.split("&")):
        if name.lower() in _SECRET_OPTIONS and value:
            yield value
        else:
            yield from (each for each in _ODBC_SECRET.findall(unquote_plus(value)) if each)
