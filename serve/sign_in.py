"""The pages by which people with browsers sign in and out, and what a page needs to know of its session."""

from __future__ import annotations

import hmac
import html
import secrets
from http.cookies import SimpleCookie
from importlib.resources import files
from string import Template
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from pipeline.core.errors import StorageError
from serve.access.caller import Caller
from serve.access.gate import LOGIN, context_of
from serve.access.sessions import COOKIE, BrowserSessions, SignedIn, cookies_of
from serve.backend import Backend
from serve.content_policy import content_policy
from serve.http_errors import HttpError, OverloadError, UnauthenticatedError
from serve.request_body import read_body

_FORM_COOKIE = "headwater-login"
_FORM_LASTS_S = 3600
_MOST_FORM_BYTES = 4 << 10
_NO_STORE = {"Cache-Control": "no-store"}


def sign_in_routes(backend: Backend) -> list[Route]:
    """Return the routes of these pages."""
    admission, project = backend.admission, backend.project.settings.name
    sessions = backend.sessions

    def show_login(request: Request) -> Response:
        return _login_page(request, sessions, project)

    async def sign_in(request: Request) -> Response:
        form = _fields(await read_body(request, _MOST_FORM_BYTES, do="send the form of the page"))
        sent = cookies_of(_raw_headers(request)).get(sessions.cookie(request.scope, _FORM_COOKIE), "")
        if not sent or not hmac.compare_digest(sent.encode(), form.get("form_token", "").encode()):
            return _login_page(request, sessions, project, "The page was open for too long: try again.")
        address = (request.scope.get("client") or ("",))[0]
        try:
            caller = await run_in_threadpool(admission.caller, f"Bearer {form.get('key', '')}", address)
        except UnauthenticatedError:
            return _login_page(request, sessions, project, "The key is not valid.")
        if caller.kind != "key":
            return _login_page(request, sessions, project, "Sign in with a key.")
        return await _begin(request, sessions, caller)

    async def sign_out(request: Request) -> Response:
        signed_in = context_of(request.scope).session
        if signed_in is not None:
            context_of(request.scope).facts["why"] = "signed out"
            await _ended(sessions, signed_in.token)
        response = Response(None, 204, {**_NO_STORE, "Clear-Site-Data": '"cache", "storage"'})
        _set_cookie(response, request, sessions, COOKIE, "", max_age=0)
        return response

    def tell_session(request: Request) -> Response:
        signed_in = context_of(request.scope).session
        if signed_in is None:
            return JSONResponse({"signed_in": False}, headers=_NO_STORE)
        told = {
            "signed_in": True,
            "name": signed_in.caller.name,
            "csrf_token": signed_in.csrf_token,
            "expires_at": round(signed_in.expires_at),
        }
        return JSONResponse(told, headers=_NO_STORE)

    return [
        Route(LOGIN, show_login),
        Route(LOGIN, sign_in, methods=["POST"]),
        Route("/logout", sign_out, methods=["POST"]),
        Route("/session", tell_session),
    ]


def _login_page(request: Request, sessions: BrowserSessions, project: str, problem: str = "") -> Response:
    """Return the page with a token that its form must send: another site can make a browser send a form, but not read this one."""
    token = secrets.token_urlsafe(32)
    page = Template(files("serve").joinpath("templates/login.html").read_text(encoding="utf-8")).substitute(
        project=html.escape(project),
        form_token=token,
        problem=f'<p class="problem" role="alert">{html.escape(problem)}</p>' if problem else "",
        provider="",
    )
    headers = {**_NO_STORE, "Content-Security-Policy": content_policy(page)}
    response = HTMLResponse(page, 403 if problem else 200, headers)
    _set_cookie(response, request, sessions, _FORM_COOKIE, token, max_age=_FORM_LASTS_S, same_site="Strict")
    return response


async def _begin(request: Request, sessions: BrowserSessions, caller: Caller, ends_at: float | None = None) -> Response:
    """Sign a caller in: always with a new token, in place of the session that the browser had."""
    old = sessions.token_of(request.scope, _raw_headers(request))
    if old:
        await _ended(sessions, old)
    try:
        signed_in: SignedIn = await run_in_threadpool(sessions.begin, caller, ends_at)
    except StorageError as error:
        raise OverloadError("the session cannot be stored", do="try again later") from error
    context = context_of(request.scope)
    context.caller = caller
    context.facts.update(session=signed_in.name, why="signed in")
    response = RedirectResponse("docs", 303, _NO_STORE)
    _set_cookie(response, request, sessions, COOKIE, signed_in.token)
    _set_cookie(response, request, sessions, _FORM_COOKIE, "", max_age=0, same_site="Strict")
    return response


async def _ended(sessions: BrowserSessions, token: str) -> None:
    try:
        await run_in_threadpool(sessions.end, token)
    except StorageError as error:
        raise OverloadError("the session cannot be ended", do="try again later") from error


def _set_cookie(  # noqa: PLR0913 - the parts of a cookie
    response: Response,
    request: Request,
    sessions: BrowserSessions,
    name: str,
    value: str,
    *,
    max_age: int | None = None,
    same_site: str = "Lax",
) -> None:
    """Set a cookie that scripts cannot read, and that ends with the browser unless `max_age`, in seconds, is given."""
    full = sessions.cookie(request.scope, name)
    cookie: SimpleCookie = SimpleCookie({full: value})
    cookie[full].update({"path": "/", "samesite": same_site} | ({} if max_age is None else {"max-age": str(max_age)}))
    cookie[full]["httponly"] = True
    if sessions.is_secure(request.scope):
        cookie[full]["secure"] = True
    response.headers.append("Set-Cookie", cookie[full].OutputString())


def _fields(body: bytes) -> dict[str, str]:
    """Return the fields of a form; raise `HttpError` for one that cannot be read."""
    try:
        pairs = parse_qs(body.decode("ascii"), max_num_fields=10, errors="strict")
    except ValueError as error:
        raise HttpError("the form cannot be read", do="send the form of the page") from error
    return {name: values[0] for name, values in pairs.items() if len(values) == 1}


def _raw_headers(request: Request) -> dict[bytes, bytes]:
    return {b"cookie": "; ".join(request.headers.getlist("cookie")).encode("latin-1")}
