"""Where a database is: a URL without a password, and the password by reference."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pipeline.core.credentials import is_reference, secret
from pipeline.core.errors import DefinitionError, SourceError

_SECRET_OPTIONS = frozenset({"password", "passwd", "pwd", "sslpassword", "token", "private_key", "access_token"})


@dataclass(frozen=True)
class DatabaseAddress:
    """The URL of a database, or a reference to one, and a reference to the password."""

    url: str
    """A URL without a password, or `env:NAME` or `file:PATH` of a URL, which may have one."""
    password: str | None = None
    """A reference to the password."""

    def __post_init__(self) -> None:
        """Raise `DefinitionError` for a password that is written out."""
        if not is_reference(self.url) and _has_password(self.url):
            raise DefinitionError(
                "the URL of a database contains a password",
                do='remove it, and pass password="env:NAME", or the entire URL as "env:NAME"',
            )
        if self.password is not None and not is_reference(self.password):
            raise DefinitionError("password= must be a reference", do='pass password="env:NAME" or "file:PATH"')

    def connection_url(self) -> str:
        """Return the URL with its password; raise `SettingsError` if a reference leads nowhere."""
        url = secret(self.url, "the URL of a database")
        if self.password is None:
            return url
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        password = quote(secret(self.password, "the password of a database"), safe="")
        return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{password}@{host}"))

    def public(self) -> str:
        """Return scheme, host, port and database, without user, password and options, as `_source` and errors show it."""
        parts = urlsplit(secret(self.url, "the URL of a database"))
        scheme = parts.scheme.partition("+")[0]
        return f"{scheme}://{parts.netloc.rpartition('@')[2]}/{unquote(parts.path).strip('/')}".rstrip("/")

    def redacted(self, text: str) -> str:
        """Return a message of a driver without the password."""
        try:
            password = urlsplit(self.connection_url()).password
        except (SourceError, ValueError):
            return text
        return text if not password else text.replace(password, "…").replace(unquote(password), "…")


def _has_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
        options = (option.partition("=") for option in parts.query.split("&"))
        return bool(parts.password) or any(name.lower() in _SECRET_OPTIONS and value for name, _, value in options)
    except ValueError as error:
        raise DefinitionError("this is not the URL of a database", got=str(error)) from error
