"""The HTTP application of a project: reads its tables, and predicts with its models."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import timedelta

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from pipeline.core.definitions import Layer
from pipeline.kernel.pool import Limits
from pipeline.project.project import Project
from serve.access.gate import Gate
from serve.backend import Backend, open_backend
from serve.graphql.endpoint import graphql_routes
from serve.odata.endpoint import odata_routes
from serve.pages.about import page_routes
from serve.pages.sign_in import sign_in_routes
from serve.problems import problem_handlers
from serve.rest.background import background_routes
from serve.rest.catalog import catalog_routes
from serve.rest.events import event_routes
from serve.rest.features import feature_routes
from serve.rest.metrics import metric_routes
from serve.rest.models import model_routes
from serve.rest.operations import operation_routes
from serve.rest.sources import source_routes
from serve.rest.sql import sql_routes
from serve.rest.tables import table_routes
from serve.sharing.endpoint import SharingServer, sharing_routes
from serve.webhooks import webhook_routes

GOLD: tuple[Layer, ...] = ("gold",)
PATIENCE = timedelta(seconds=30)
_EXPOSED = ("ETag", "Link", "Location", "Table-Version", "Content-Range", "RateLimit", "Retry-After", "X-Request-Id")


def create_app(
    project: Project,
    *,
    layers: Collection[Layer] = GOLD,
    limits: Limits | None = None,
    patience: timedelta = PATIENCE,
) -> Starlette:
    """Return the app of a project. Nothing is read before it is started.

    Tables of `layers` are served, and those that access policies name. `limits` apply to all queries together (default: the
    project's `memory_bytes` or 1 GiB, and two threads), `patience` to the time of each, and of each prediction. Callers need a key of
    the project's catalog, except for public tables and the pages that describe the endpoints.
    """
    backend = open_backend(project, layers, limits, patience)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        warming = threading.Thread(target=backend.models.warm, name="warm champions", daemon=True)
        warming.start()
        if backend.background is not None:
            backend.background.start()
        yield
        backend.tables.is_draining = True
        for close in app.state.closing:
            await run_in_threadpool(close)
        await run_in_threadpool(warming.join)
        await run_in_threadpool(backend.close)

    app = Starlette(
        routes=[
            *table_routes(backend.reading),
            *event_routes(backend),
            *metric_routes(backend.reading),
            *sql_routes(backend.reading, backend.background),
            *background_routes(backend.reading, backend.background),
            *odata_routes(backend.reading, project.settings.name, project.settings.serve.public_url),
            *sharing_routes(_sharing_server(backend)),
            *feature_routes(backend.reading, backend.views),
            *catalog_routes(backend),
            *operation_routes(backend),
            *model_routes(backend.predictions, patience),
            *graphql_routes(backend, patience),
            *webhook_routes(project),
            *source_routes(project),
            *page_routes(backend),
            *sign_in_routes(backend),
        ],
        middleware=[*_cors(project), _gate(backend)],
        exception_handlers=problem_handlers(project.settings.lake),
        lifespan=lifespan,
    )
    app.state.backend = backend
    closing: list[Callable[[], None]] = []
    app.state.closing = closing  # what ends other servers of this app, which need the backend until then
    return app


def _sharing_server(backend: Backend) -> SharingServer:
    settings = backend.project.settings
    return SharingServer(backend.reading, backend.exports, backend.signatures, settings.name, settings.serve.public_url)


def _gate(backend: Backend) -> Middleware:
    return Middleware(
        Gate,
        admission=backend.admission,
        tables=backend.tables,
        cache=backend.cache,
        signatures=backend.signatures,
        replicas=None if backend.shared is None else backend.shared.cache,
        sessions=backend.sessions,
    )


def _cors(project: Project) -> list[Middleware]:
    origins = project.settings.serve.cors_origins
    if not origins:
        return []
    allowed = ["Authorization", "Accept", "Content-Type", "Idempotency-Key", "If-None-Match", "Prefer", "X-Request-Id"]
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=allowed,
            expose_headers=list(_EXPOSED),
        )
    ]
