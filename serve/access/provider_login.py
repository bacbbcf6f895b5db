"""Signing in at an identity provider: the authorization code flow with PKCE (RFC 6749, RFC 7636).

The provider gives an access token for these endpoints, which says who the caller is, as if it had been sent with a request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from pipeline.connectors.http.client import ApiRequest
from pipeline.core.errors import HeadwaterError, SourceError
from pipeline.core.serve_settings import ServeSettings
from serve.access.authentication import TokenVerifier
from serve.access.caller import Caller
from serve.access.provider_keys import provider_client, provider_configuration, secure_address
from serve.http_errors import OverloadError, UnauthenticatedError

_CONFIGURED_FOR_S = 600.0
_REFUSED = frozenset({400, 401, 403})
_OK = 200


class ProviderLogin:
    """Sends browsers to the provider that the settings name, and asks it who has come back. Thread-safe."""

    def __init__(
        self, settings: ServeSettings, tokens: TokenVerifier, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read nothing yet. `clock` returns seconds."""
        self._settings = settings
        self._tokens = tokens
        self._clock = clock
        self._client = provider_client(settings.oidc_issuer)
        self._configuration: Mapping[str, Any] = {}
        self._read_at = float("-inf")
        self._reading = threading.Lock()

    @property
    def host(self) -> str:
        """That of the provider, for people."""
        return urlsplit(self._settings.oidc_issuer).netloc

    def address(self, return_to: str, state: str, verifier: str) -> str:
        """Return where a browser signs in, to come back with `state` and a code; may wait. Raises `OverloadError`."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        words = {
            "scope": "openid",
            **self._settings.oidc_login,
            "response_type": "code",
            "client_id": self._settings.oidc_client_id,
            "redirect_uri": return_to,
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        address = self._endpoint("authorization_endpoint")
        return f"{address}{'&' if '?' in address else '?'}{urlencode(words)}"

    def caller(self, code: str, return_to: str, verifier: str) -> tuple[Caller, float]:
        """Return who signed in, and when the token of that ends, in seconds since 1970; may wait.

        Raises `UnauthenticatedError` if the provider refuses the code or its token is not for these endpoints, `OverloadError` if
        it does not answer.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": return_to,
            "code_verifier": verifier,
            "client_id": self._settings.oidc_client_id,
        }
        if "resource" in self._settings.oidc_login:
            form["resource"] = self._settings.oidc_login["resource"]  # RFC 8707: for which of them the token is
        request = ApiRequest(self._endpoint("token_endpoint"), method="POST", form=form, headers=self._authorization())
        try:
            response = self._client.get(request, accepted=_REFUSED)
        except HeadwaterError as error:
            raise OverloadError("the identity provider does not answer", do="try again later") from error
        token = _token_of(response.body) if response.status == _OK else ""
        if not token:
            raise UnauthenticatedError("the identity provider refuses the sign-in", do="sign in again")
        caller = self._tokens.verify(token)
        return caller, float(str(caller.claims["exp"]))

    def close(self) -> None:
        """Close the connections to the provider."""
        self._client.close()

    def _authorization(self) -> dict[str, str]:
        secret = self._settings.oidc_client_secret
        if not secret:
            return {}  # a public client, which the verifier protects
        pair = f"{quote(self._settings.oidc_client_id, safe='')}:{quote(secret, safe='')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}

    def _endpoint(self, name: str) -> str:
        with self._reading:
            try:
                if self._clock() - self._read_at > _CONFIGURED_FOR_S:
                    self._configuration = provider_configuration(self._client, self._settings.oidc_issuer)
                    self._read_at = self._clock()
                return secure_address(self._configuration, name, self._settings.oidc_issuer)
            except SourceError as error:
                raise OverloadError("the identity provider does not answer", do="try again later") from error


def _token_of(body: bytes) -> str:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    token = answer.get("access_token") if isinstance(answer, dict) else None
    return token if isinstance(token, str) else ""
