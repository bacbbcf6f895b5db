"""The credentials of HTTP requests. Values are references such as `env:NAME` and are looked up when a request is sent."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from pipeline.core.credentials import secret
from pipeline.core.errors import DefinitionError

if TYPE_CHECKING:
    import httpx

_DIGESTS = ("sha1", "sha256", "sha512")
_LONGEST_BYTES = 1 << 16
TokenRequest = Callable[[str, Mapping[str, str], Mapping[str, str]], Mapping[str, object]]
"""Posts a form with headers to an address, and returns the JSON object of the response."""


@runtime_checkable
class Credentials(Protocol):
    """Adds credentials to requests."""

    def sign(self, request: httpx.Request) -> None:
        """Add the credentials to a request that is about to be sent."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of URL parameters with credentials, which must not be stored or shown."""


def require_credentials(auth: object) -> Credentials | None:
    """Return credentials, or `None`; raise `DefinitionError` for anything else, without its value."""
    if auth is None or isinstance(auth, Credentials):
        return auth
    raise DefinitionError(
        "auth= must be credentials such as Bearer(…), ApiKey(…), Basic(…) or OAuth2(…)",
        got=type(auth).__name__,
        do="for a token: from pipeline.connectors.rest import Bearer, and auth=Bearer('env:NAME')",
    )


@dataclass(frozen=True)
class Bearer:
    """A token in the header `Authorization: Bearer`."""

    token: str = field(repr=False)

    parameters = ()

    def sign(self, request: httpx.Request) -> None:
        """Add the header."""
        request.headers["Authorization"] = f"Bearer {secret(self.token, 'the token')}"


@dataclass(frozen=True)
class Basic:
    """A user and a password in the header `Authorization: Basic`."""

    user: str
    password: str = field(repr=False)

    parameters = ()

    def sign(self, request: httpx.Request) -> None:
        """Add the header."""
        pair = f"{secret(self.user, 'the user')}:{secret(self.password, 'the password')}"
        request.headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"


@dataclass(frozen=True)
class ApiKey:
    """A key in a header, or in a parameter of the URL."""

    value: str = field(repr=False)
    header: str = "X-API-Key"
    parameter: str | None = None
    """The name of the parameter; it replaces the header."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameter, if there is one."""
        return () if self.parameter is None else (self.parameter,)

    def sign(self, request: httpx.Request) -> None:
        """Add the header or the parameter."""
        value = secret(self.value, "the API key")
        if self.parameter is None:
            request.headers[self.header] = value
        else:
            request.url = request.url.copy_set_param(self.parameter, value)


@dataclass(frozen=True)
class Hmac:
    """A signature of each request with a shared secret.

    `message` is what is signed, with `{timestamp}` (seconds since 1970), `{nonce}`, `{method}`, `{path}` (with the
    query), `{url}`, `{body}` and `{body_sha256}`. The signature, the timestamp and the nonce are sent in headers.
    """

    key: str = field(repr=False)
    message: str = "{timestamp}{method}{path}{body}"
    header: str = "X-Signature"
    timestamp_header: str = "X-Timestamp"
    nonce_header: str | None = None
    digest: str = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    """Text before the signature in its header, for example `sha256=`."""

    parameters = ()

    def __post_init__(self) -> None:
        """Raise `DefinitionError` for an unknown digest or encoding, or a placeholder that does not exist."""
        if self.digest not in _DIGESTS or self.encoding not in {"hex", "base64"}:
            got = f"digest={self.digest!r}, encoding={self.encoding!r}"
            raise DefinitionError("unknown kind of signature", got=got, do=f"use {', '.join(_DIGESTS)}; hex or base64")
        try:
            self.message.format(
                **dict.fromkeys(("timestamp", "nonce", "method", "path", "url", "body", "body_sha256"), "")
            )
        except (KeyError, IndexError, ValueError) as error:
            raise DefinitionError("message= has an unknown placeholder", got=str(error), do="see Hmac") from error

    def sign(self, request: httpx.Request) -> None:
        """Add the headers."""
        body, timestamp, nonce = request.read(), str(int(time.time())), secrets.token_hex(16)
        text = self.message.format(
            timestamp=timestamp,
            nonce=nonce,
            method=request.method,
            path=request.url.raw_path.decode(),
            url=str(request.url),
            body=body.decode("latin-1"),
            body_sha256=hashlib.sha256(body).hexdigest(),
        )
        key = secret(self.key, "the key of signatures").encode()
        made = hmac.new(key, text.encode("latin-1", "replace"), self.digest).digest()
        shown = made.hex() if self.encoding == "hex" else base64.b64encode(made).decode()
        request.headers[self.header] = self.prefix + shown
        request.headers[self.timestamp_header] = timestamp
        if self.nonce_header is not None:
            request.headers[self.nonce_header] = nonce


@dataclass(frozen=True)
class OAuth2:
    """OAuth 2.0: a token that is requested with client credentials, or with a refresh token, and renewed before it expires."""

    token_url: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    """If given, it is used instead of the client credentials."""
    scope: str = ""
    parameters_of_request: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Additional fields of the token request, such as `audience`."""
    client_in_body: bool = False
    """Whether the client is sent in the body, instead of the header `Authorization`."""

    parameters = ()

    def sign(self, request: httpx.Request) -> None:
        """Raise `DefinitionError`: the client requests the token and sends it as a `Bearer`."""
        raise DefinitionError("OAuth2 can only be used by rest(…), graphql(…) and odata(…)", got=str(request.url.host))

    def token(self, ask: TokenRequest, refreshed: str = "") -> tuple[str, float, str]:
        """Request a token; return it with its lifetime in seconds, and the refresh token for the next request.

        Raises `DefinitionError` if the response has no token.
        """
        refresh = refreshed or (secret(self.refresh_token, "the refresh token") if self.refresh_token else "")
        form = (
            {"grant_type": "refresh_token", "refresh_token": refresh}
            if refresh
            else {"grant_type": "client_credentials"}
        )
        form |= {"scope": self.scope} if self.scope else {}
        form |= {name: secret(value, name) for name, value in self.parameters_of_request.items()}
        client = secret(self.client_id, "the client id")
        password = secret(self.client_secret, "the client secret") if self.client_secret else ""
        headers: dict[str, str] = {}
        if self.client_in_body or not password:
            form |= {"client_id": client, **({"client_secret": password} if password else {})}
        else:
            headers["Authorization"] = f"Basic {base64.b64encode(f'{client}:{password}'.encode()).decode()}"
        answer = ask(self.token_url, form, headers)
        token, lifetime_s = answer.get("access_token"), answer.get("expires_in", 3600)
        if not isinstance(token, str) or not token:
            raise DefinitionError(
                "the token request was answered without a token",
                got=f"fields {sorted(map(str, answer))}",
                do="check token_url= and the client",
            )
        seconds = (
            float(lifetime_s) if isinstance(lifetime_s, int | float | str) and str(lifetime_s).isdigit() else 3600.0
        )
        renewed = answer.get("refresh_token")
        return token, seconds, renewed if isinstance(renewed, str) else refresh
