"""The HTTP application of a project: reads its tables, and predicts with its models."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files

from anyio import fail_after, to_thread
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from pipeline.connectors.webhook.source import Webhook
from pipeline.core.definitions import Artifact, Feed, Layer, Source
from pipeline.core.errors import HeadwaterError
from pipeline.kernel.pool import Limits
from pipeline.project.project import Project
from pipeline.project.workspace import Workspace
from serve.answers import answer_errors
from serve.engine import Engine
from serve.features import FeatureLookup
from serve.http_errors import BusyError, OverloadError, UnknownError
from serve.models import ServedModels, request_of
from serve.openapi import document
from serve.prediction_service import PredictionService
from serve.request_body import read_body
from serve.rows import read_rows
from serve.status import describe, health
from serve.tables import Tables

_LOG = logging.getLogger("headwater.serve")
GOLD: tuple[Layer, ...] = ("gold",)
PATIENCE = timedelta(seconds=30)
MOST_PREDICTIONS = 256
"""How many requests for predictions a process answers at a time, including those that wait for a thread."""
MOST_BODY_BYTES = 8 << 20
_MOST_ID = 200
"""The most characters of an id that a client gives its request."""
_DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


@dataclass(frozen=True)
class Backend:
    """The components that requests use."""

    project: Project
    tables: Tables
    models: ServedModels
    features: FeatureLookup
    predictions: PredictionService
    engine: Engine


def create_app(
    project: Project,
    *,
    layers: Collection[Layer] = GOLD,
    limits: Limits | None = None,
    patience: timedelta = PATIENCE,
) -> FastAPI:
    """Return the app of a project. Nothing is read before it is started.

    Only tables of `layers` are served. `limits` apply to all queries together (default: the project's
    `memory_bytes` or 1 GiB, and two threads), `patience` to the time of each, and of each prediction. There is no authentication:
    expose the app only to clients that may read the tables.
    """
    backend = _backend(project, layers, limits, patience)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warming = threading.Thread(target=backend.models.warm, name="warm champions", daemon=True)
        warming.start()
        yield
        await run_in_threadpool(warming.join)
        await run_in_threadpool(backend.predictions.close)
        backend.features.close()
        backend.engine.close()

    app = FastAPI(title=project.settings.name, openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.backend = backend
    answer_errors(app, project.settings.lake)
    _add_tables(app, backend)
    _add_models(app, backend, patience)
    _add_webhooks(app, backend)
    _add_pages(app, backend)
    return app


def _backend(project: Project, layers: Collection[Layer], limits: Limits | None, patience: timedelta) -> Backend:
    workspace, settings = Workspace(project), project.settings
    models, features = ServedModels(settings.models, project.graph.all_of(Artifact)), FeatureLookup(project)
    bounds = limits or Limits(settings.memory_bytes or 1 << 30, threads=2)
    return Backend(
        project=project,
        tables=Tables(workspace, layers),
        models=models,
        features=features,
        predictions=PredictionService(project, models, features),
        engine=Engine(workspace.lake.storage, bounds, patience),
    )


def _add_tables(app: FastAPI, backend: Backend) -> None:
    @app.get("/tables")
    def list_tables() -> Response:
        return JSONResponse({"tables": [describe(d, backend.tables) for d in backend.tables.definitions]})

    @app.get("/tables/{name}")
    def read_table(name: str, request: Request) -> Response:
        return read_rows(backend.tables, backend.engine, name, request)


def _add_models(app: FastAPI, backend: Backend, patience: timedelta) -> None:
    """Add the endpoints of models. Further requests than `MOST_PREDICTIONS` at a time are refused: those that wait are late already."""
    in_flight = 0  # changed by the event loop only

    @app.post("/models/{name}/predict")
    async def predict_rows(name: str, request: Request) -> Response:
        nonlocal in_flight
        if in_flight >= MOST_PREDICTIONS:
            got = f"{in_flight:,} requests"
            raise BusyError(
                "the server has as many predictions to make as it may", got=got, do="try again after a second"
            )
        in_flight += 1
        try:
            return await predicted(name, request)
        finally:
            in_flight -= 1

    async def predicted(name: str, request: Request) -> Response:
        body = await read_body(request, MOST_BODY_BYTES, do="send fewer rows per request")
        request_id = request.headers.get("x-request-id", "")[:_MOST_ID]
        try:
            with fail_after(patience.total_seconds()):
                return await to_thread.run_sync(
                    lambda: JSONResponse(backend.predictions.answer(name, request_of(body), request_id)),
                    abandon_on_cancel=True,
                )
        except TimeoutError as error:
            got = f"more than {patience.total_seconds():g} s"
            raise OverloadError("the prediction takes too long", got=got, do="send fewer rows, or try later") from error


def _add_webhooks(app: FastAPI, backend: Backend) -> None:
    """Add the endpoints of webhooks. A message is on disk when its response is sent; until then the sender repeats it."""
    sources = backend.project.graph.all_of(Source) + backend.project.graph.all_of(Feed)
    webhooks = {each.reader.name: each.reader for each in sources if isinstance(each.reader, Webhook)}
    receivers = {name: webhook.receiver() for name, webhook in webhooks.items()}

    @app.post("/webhooks/{name}")
    async def receive_message(name: str, request: Request) -> Response:
        if name not in receivers:
            raise UnknownError(f"there is no webhook {name!r}", do="define a source of webhook(…)")
        do = "send smaller messages, or raise most_bytes= of the webhook"
        body = await read_body(request, webhooks[name].most_bytes, do=do)
        try:
            answer = await run_in_threadpool(receivers[name].receive, dict(request.headers), body)
        except HeadwaterError as error:
            _LOG.warning("webhook %s: %s", name, error)
            raise OverloadError("the message could not be stored", do="send it again later") from error
        return JSONResponse(
            {"result": answer.result, **({"problem": answer.problem} if answer.problem else {})}, answer.status
        )


def _add_pages(app: FastAPI, backend: Backend) -> None:
    @app.get("/health")
    def tell_health() -> Response:
        report = health(backend.project.settings, backend.tables, backend.models, backend.features)
        report |= {"not_logged": backend.predictions.dropped, "not_mirrored": backend.predictions.not_mirrored}
        return JSONResponse(report, 503 if report["status"] == "down" else 200)

    @app.get("/openapi.json")
    def tell_openapi() -> Response:
        return JSONResponse(document(backend.project.settings.name, backend.tables, backend.models, backend.features))

    @app.get("/docs")
    def show_docs() -> Response:
        page = files("serve").joinpath("templates/docs.html").read_text(encoding="utf-8")
        return HTMLResponse(page, headers={"Content-Security-Policy": _DOCS_POLICY})

    @app.get("/")
    def go_to_docs() -> Response:
        return RedirectResponse("docs")
