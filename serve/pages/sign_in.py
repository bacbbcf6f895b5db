"""The pages by which people with browsers sign in and out, and what a page needs to know of its session."""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from serve.access.gate import LOGIN, context_of
from serve.access.sessions import COOKIE, cookies_of
from serve.backend import Backend
from serve.http_errors import HttpError, UnauthenticatedError
from serve.pages.login import FORM_COOKIE, NO_STORE, begin_session, cookie_headers, end_session, login_page, set_cookie
from serve.request_body import read_body
from serve.version_events import address_of

if TYPE_CHECKING:
    from serve.access.provider_login import ProviderLogin

_PROVIDER_COOKIE = "headwater-provider"
_PROVIDER_LASTS_S = 600
_PROVIDER, _CALLBACK = f"{LOGIN}/provider", f"{LOGIN}/callback"
_MOST_FORM_BYTES = 4 << 10


def sign_in_routes(backend: Backend) -> list[Route]:
    """Return the routes of these pages."""
    admission = backend.admission
    sessions = backend.sessions

    def show_login(request: Request) -> Response:
        return login_page(request, backend)

    async def sign_in(request: Request) -> Response:
        form = _fields(await read_body(request, _MOST_FORM_BYTES, do="send the form of the page"))
        sent = cookies_of(cookie_headers(request)).get(sessions.cookie(request.scope, FORM_COOKIE), "")
        if not sent or not hmac.compare_digest(sent.encode(), form.get("form_token", "").encode()):
            return login_page(request, backend, "The page was open for too long: try again.")
        try:
            caller = await run_in_threadpool(admission.caller, f"Bearer {form.get('key', '')}", address_of(request))
        except UnauthenticatedError:
            return login_page(request, backend, "The key is not valid.")
        if caller.kind != "key":
            return login_page(request, backend, "Sign in with a key.")
        return await begin_session(request, sessions, caller)

    async def sign_out(request: Request) -> Response:
        signed_in = context_of(request.scope).session
        if signed_in is not None:
            context_of(request.scope).facts["why"] = "signed out"
            await end_session(sessions, signed_in.token)
        response = Response(None, 204, {**NO_STORE, "Clear-Site-Data": '"cache", "storage"'})
        set_cookie(response, request, sessions, COOKIE, "", max_age=0)
        return response

    def tell_session(request: Request) -> Response:
        signed_in = context_of(request.scope).session
        if signed_in is None:
            return JSONResponse({"signed_in": False}, headers=NO_STORE)
        told = {
            "signed_in": True,
            "name": signed_in.caller.name,
            "csrf_token": signed_in.csrf_token,
            "expires_at": round(signed_in.expires_at),
        }
        return JSONResponse(told, headers=NO_STORE)

    return [
        *([] if backend.login is None else _provider_routes(backend, backend.login)),
        Route(LOGIN, show_login),
        Route(LOGIN, sign_in, methods=["POST"]),
        Route("/logout", sign_out, methods=["POST"]),
        Route("/session", tell_session),
    ]


def _provider_routes(backend: Backend, login: ProviderLogin) -> list[Route]:
    """Return the routes by which a browser signs in at the provider and comes back."""
    sessions = backend.sessions

    async def go_to_provider(request: Request) -> Response:
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        address = await run_in_threadpool(login.address, _return_to(request, backend), state, verifier)
        response = RedirectResponse(address, 303, NO_STORE)
        set_cookie(response, request, sessions, _PROVIDER_COOKIE, f"{state}.{verifier}", max_age=_PROVIDER_LASTS_S)
        return response

    async def come_back(request: Request) -> Response:
        given = request.query_params
        kept = cookies_of(cookie_headers(request)).get(sessions.cookie(request.scope, _PROVIDER_COOKIE), "")
        state, _, verifier = kept.partition(".")
        if not verifier or not hmac.compare_digest(state.encode(), given.get("state", "").encode()):
            return login_page(request, backend, "This sign-in was not begun here, or long ago: try again.")
        try:
            caller, ends_at = await run_in_threadpool(
                login.caller, given.get("code", ""), _return_to(request, backend), verifier
            )
        except UnauthenticatedError:
            return login_page(request, backend, "The identity provider did not let you in.")
        response = await begin_session(request, sessions, caller, ends_at)
        set_cookie(response, request, sessions, _PROVIDER_COOKIE, "", max_age=0)
        return response

    return [Route(_PROVIDER, go_to_provider), Route(_CALLBACK, come_back)]


def _return_to(request: Request, backend: Backend) -> str:
    return (backend.project.settings.serve.public_url or str(request.base_url).rstrip("/")) + _CALLBACK


def _fields(body: bytes) -> dict[str, str]:
    """Return the fields of a form; raise `HttpError` for one that cannot be read."""
    try:
        pairs = parse_qs(body.decode("ascii"), max_num_fields=10, errors="strict")
    except ValueError as error:
        raise HttpError("the form cannot be read", do="send the form of the page") from error
    return {name: values[0] for name, values in pairs.items() if len(values) == 1}
