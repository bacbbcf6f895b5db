"""The routes of features: which there are, and those of entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ml.features.materialization import ViewStatus
from pipeline.core.event_time import format_duration
from serve.access.gate import context_of
from serve.features.entities import MOST_ENTITIES, Entity, FeatureViews, VisibleView, url_value
from serve.http_errors import HttpError
from serve.queries.formats import JSON, with_rows
from serve.reading import Reading
from serve.request_body import json_object, read_body
from serve.rest.catalog import words_of

MOST_BODY_BYTES = 1 << 20
_FEATURES = "features"
_NOT_KEPT = {"Cache-Control": "no-store", "Vary": "Authorization"}


def feature_routes(reading: Reading, views: FeatureViews) -> list[Route]:
    """Return the routes of the feature views that callers may look up."""

    async def list_views(request: Request) -> Response:
        words_of(request, ())
        caller = context_of(request.scope).caller
        return await reading.run(caller, lambda: JSONResponse({"views": _listed(views, request)}, headers=_NOT_KEPT))

    async def look_up(request: Request) -> Response:
        caller, body = context_of(request.scope).caller, b""
        if request.method == "POST":
            body = await read_body(request, MOST_BODY_BYTES, do="send fewer entities per request")
        return await reading.run(caller, _look_up, views, request, body)

    return [
        Route("/v1/features", list_views),
        Route("/v1/features/{name}", look_up, methods=["GET", "POST"]),
    ]


def _listed(views: FeatureViews, request: Request) -> list[dict[str, Any]]:
    readable = views.readable(context_of(request.scope).caller)
    return [_described(each, status) for each, status in zip(readable, views.statuses(readable), strict=True)]


def _described(visible: VisibleView, status: ViewStatus) -> dict[str, Any]:
    view, kinds = visible.view, visible.schema.as_dict()
    newest = status.newest if visible.shows_all_rows else None  # it may be that of a row that the caller does not see
    return {
        "name": view.name,
        "description": view.description,
        "owner": view.owner,
        "entity": [{"name": name, "type": kinds[name]} for name in view.entity],
        "features": [{"name": name, "type": kinds[name]} for name in visible.features],
        "event_time": visible.event_time,
        "ttl": None if view.ttl is None else format_duration(view.ttl),
        "state": status.state,
        "version": status.online_version,
        "as_of": None if newest is None else newest.isoformat(),
        "written_at": None if status.written_at is None else status.written_at.isoformat(),
    }


def _look_up(views: FeatureViews, request: Request, body: bytes) -> Response:
    context, name = context_of(request.scope), request.path_params["name"]
    visible = views.find(context.caller, name)
    context.facts.update(table=name, why=visible.grant.reason)
    if request.method == "POST":
        words_of(request, ())
        entities, names = _asked(body)
    else:
        asked = words_of(request, (*visible.view.entity, _FEATURES))
        names = [each.strip() for each in asked.pop(_FEATURES, "").split(",") if each.strip()]
        entities = [{column: url_value(text, visible.types[column]) for column, text in asked.items()}]
    found = views.look_up(visible, context.caller, entities, names)
    context.facts["rows"] = found.found
    return Response(with_rows({"view": name}, found.rows.encode()), media_type=JSON, headers=_NOT_KEPT)


def _asked(body: bytes) -> tuple[Sequence[Entity], Sequence[str]]:
    """Return the entities of a body, and the features that it names; raise `HttpError` if it is something else."""
    document = json_object(body, '{"entities": [{…}, …]}')
    if not set(document) <= {"entities", _FEATURES}:
        raise HttpError("the body is an object with 'entities' and optionally 'features'")
    entities, names = document.get("entities"), document.get(_FEATURES, [])
    if not isinstance(entities, list) or not all(isinstance(each, Mapping) for each in entities):
        raise HttpError("'entities' is a list of objects", do='send {"entities": [{…}, …]}')
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise HttpError("'features' is a list of names")
    if len(entities) > MOST_ENTITIES:
        got, do = str(len(entities)), "send several requests"
        raise HttpError(f"there are more than {MOST_ENTITIES} entities", got=got, do=do)
    return entities, names
