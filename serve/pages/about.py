"""The pages about the server itself: its health, and the description of its endpoints for the caller that asks."""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from serve.access.gate import context_of
from serve.backend import Backend
from serve.pages.content_policy import content_policy
from serve.rest.openapi import document
from serve.status import health


def page_routes(backend: Backend) -> list[Route]:
    """Return the routes of these pages."""

    def tell_health(request: Request) -> Response:
        report = health(backend.project.settings, backend.tables, backend.models, backend.features)
        report["cache"] = {
            "hits": backend.cache.hits,
            "misses": backend.cache.misses,
            "bytes": backend.cache.size_bytes,
        }
        if backend.shared is not None:
            report["shared"] = backend.shared.report()
            report["reasons"] += backend.shared.reasons
            if backend.shared.reasons and report["status"] == "ok":
                report["status"] = "degraded"
        report |= {"not_logged": backend.predictions.dropped, "not_mirrored": backend.predictions.not_mirrored}
        status = 503 if report["status"] == "down" else 200
        if not context_of(request.scope).caller.may("operate"):
            report = {"status": report["status"]}  # names and reasons are for those who operate the server
        return JSONResponse(report, status)

    def tell_openapi(request: Request) -> Response:
        return JSONResponse(document(backend, context_of(request.scope).caller))

    def show_docs(_: Request) -> Response:
        page = files("serve").joinpath("templates/docs.html").read_text(encoding="utf-8")
        return HTMLResponse(page, headers={"Content-Security-Policy": content_policy(page)})

    def go_to_docs(_: Request) -> Response:
        return RedirectResponse("docs")

    return [
        Route("/health", tell_health),
        Route("/openapi.json", tell_openapi),
        Route("/docs", show_docs),
        Route("/", go_to_docs),
    ]
