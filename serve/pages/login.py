"""The page where people sign in, and the cookies of their sessions."""

from __future__ import annotations

import html
import secrets
from http.cookies import SimpleCookie
from importlib.resources import files
from string import Template

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pipeline.core.errors import StorageError
from serve.access.caller import Caller
from serve.access.gate import context_of
from serve.access.sessions import COOKIE, BrowserSessions, SignedIn
from serve.backend import Backend
from serve.http_errors import OverloadError
from serve.pages.content_policy import content_policy

FORM_COOKIE = "headwater-login"
_FORM_LASTS_S = 3600
_PROVIDER = Template('<a class="provider" href="${root}login/provider">Sign in at $host</a>')
NO_STORE = {"Cache-Control": "no-store"}


def login_page(request: Request, backend: Backend, problem: str = "") -> Response:
    """Return the page with a token that its form must send: another site can make a browser send a form, but not read this one."""
    token, sessions, login = secrets.token_urlsafe(32), backend.sessions, backend.login
    root = root_of(request)
    page = Template(files("serve").joinpath("templates/login.html").read_text(encoding="utf-8")).substitute(
        project=html.escape(backend.project.settings.name),
        form_token=token,
        problem=f'<p class="problem" role="alert">{html.escape(problem)}</p>' if problem else "",
        provider="" if login is None else _PROVIDER.substitute(root=root, host=html.escape(login.host)),
        root=root,
    )
    headers = {**NO_STORE, "Content-Security-Policy": content_policy(page)}
    response = HTMLResponse(page, 403 if problem else 200, headers)
    set_cookie(response, request, sessions, FORM_COOKIE, token, max_age=_FORM_LASTS_S, same_site="Strict")
    return response


async def begin_session(
    request: Request, sessions: BrowserSessions, caller: Caller, ends_at: float | None = None
) -> Response:
    """Sign a caller in: always with a new token, in place of the session that the browser had."""
    old = sessions.token_of(request.scope, cookie_headers(request))
    if old:
        await end_session(sessions, old)
    try:
        signed_in: SignedIn = await run_in_threadpool(sessions.begin, caller, ends_at)
    except StorageError as error:
        raise OverloadError("the session cannot be stored", do="try again later") from error
    context = context_of(request.scope)
    context.caller = caller
    context.facts.update(session=signed_in.name, why="signed in")
    response = RedirectResponse(f"{root_of(request)}docs", 303, NO_STORE)
    set_cookie(response, request, sessions, COOKIE, signed_in.token)
    set_cookie(response, request, sessions, FORM_COOKIE, "", max_age=0, same_site="Strict")
    return response


async def end_session(sessions: BrowserSessions, token: str) -> None:
    """End a session; raise `OverloadError` if that is not possible now."""
    try:
        await run_in_threadpool(sessions.end, token)
    except StorageError as error:
        raise OverloadError("the session cannot be ended", do="try again later") from error


def root_of(request: Request) -> str:
    """Return how a link of the page at this address leads to the root, which may be below a path that a proxy removes."""
    return "../" * (request.url.path.count("/") - 1)


def set_cookie(  # noqa: PLR0913 - the parts of a cookie
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


def cookie_headers(request: Request) -> dict[bytes, bytes]:
    """Return the header with the cookies of a request, as the gate reads it."""
    return {b"cookie": "; ".join(request.headers.getlist("cookie")).encode("latin-1")}
