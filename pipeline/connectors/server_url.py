"""URLs of servers: their scheme says whether the connection has TLS, and they contain no user."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from pipeline.core.errors import DefinitionError


@dataclass(frozen=True)
class ServerAddress:
    """Where a server is."""

    host: str
    port: int
    has_tls: bool
    path: str
    """The path without its first slash, decoded."""


@dataclass(frozen=True)
class UrlForm:
    """How the URLs of a system's servers are written."""

    system: str
    """The server with its article, for errors."""
    plain: str
    """An example without TLS, with the default port."""
    tls: str
    """An example with TLS, with its default port."""

    def require(self, url: str, ca: str | None = None) -> None:
        """Raise `DefinitionError` for a URL with another scheme, without a host, or with a user; and if `ca` needs TLS."""
        if "@" in url:
            raise DefinitionError(f"the URL of {self.system} contains a user", do='pass user= and password="env:NAME"')
        if not self._is_known(url):
            raise DefinitionError(f"the URL of {self.system} is not known", got=repr(url), do=f"write {self.plain}")
        if ca is not None and not self.address(url).has_tls:
            raise DefinitionError("ca= needs a URL with TLS", got=repr(url), do=f"write {self.tls}")

    def address(self, url: str) -> ServerAddress:
        """Return where the server of a valid URL is."""
        parts, tls = urlsplit(url), urlsplit(self.tls)
        has_tls = parts.scheme == tls.scheme
        port = parts.port or (tls if has_tls else urlsplit(self.plain)).port
        return ServerAddress(parts.hostname or "", port or 0, has_tls, unquote(parts.path[1:]))

    def _is_known(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
            has_port = parts.port is None or parts.port > 0  # raises `ValueError` for a port that is no number
        except ValueError:
            return False
        schemes = {urlsplit(example).scheme for example in (self.plain, self.tls)}
        return has_port and bool(parts.hostname) and parts.scheme in schemes
