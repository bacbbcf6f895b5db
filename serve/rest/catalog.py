"""The routes about definitions, as a caller sees them: catalog, lineage, quality, models.

What a caller may not read does not exist: it is left out of lineage too, whose edges then lead past it. Callers with the scope
`operate` see the names of all definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ml.experiments.definition import Experiment
from pipeline.core.errors import did_you_mean
from serve.access.authorization import Grant
from serve.access.caller import Caller
from serve.access.gate import context_of
from serve.backend import Backend
from serve.http_errors import HttpError, UnknownError
from serve.queries.values import shown
from serve.rest.metrics import describe as describe_metric
from serve.status import describe


def catalog_routes(backend: Backend) -> list[Route]:
    """Return the routes about definitions."""
    return [
        _route(backend, "/v1/catalog", _catalog, ()),
        _route(backend, "/v1/lineage", _lineage, ("name",)),
        _route(backend, "/v1/quality", _quality, ("name",)),
        _route(backend, "/v1/models", _models, ()),
        _route(backend, "/v1/experiments", _experiments, ()),
    ]


_Answer = Callable[[Backend, Caller, dict[str, str]], dict[str, Any]]


def _route(backend: Backend, path: str, answer: _Answer, words: tuple[str, ...]) -> Route:
    async def respond(request: Request) -> Response:
        caller = context_of(request.scope).caller
        asked = words_of(request, words)
        return JSONResponse(await backend.reading.run(caller, answer, backend, caller, asked))

    return Route(path, respond)


def words_of(request: Request, known: tuple[str, ...], repeated: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the parameters of a request, each once; raise `HttpError` for an unknown and for a repeated one."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in repeated:
            continue
        if name not in known:
            expected = [*known, *repeated]
            raise HttpError(f"unknown parameter {shown(name)}", do=did_you_mean(name[:200], expected))
        if name in found:
            raise HttpError(f"the parameter {name!r} is there twice", do="send it once")
        found[name] = value
    return found


def _catalog(backend: Backend, caller: Caller, _: dict[str, str]) -> dict[str, Any]:
    reading, names = backend.reading, _visible(backend, caller)
    tables = [
        {**describe(reading, caller, grant), "inputs": sorted(_inputs(backend, grant.definition.name, names))}
        for grant in reading.authorizer.readable(caller)
    ]
    return {
        "tables": tables,
        "metrics": [describe_metric(each) for each in reading.metrics.readable(caller)],
        "models": [{"name": each.name, "description": each.description} for each in _usable(backend, caller)],
    }


def _lineage(backend: Backend, caller: Caller, asked: dict[str, str]) -> dict[str, Any]:
    names = _visible(backend, caller)
    edges = {name: _inputs(backend, name, names) for name in names}
    if "name" in asked:
        start = asked["name"]
        if start not in edges:
            raise UnknownError(f"there is no definition {shown(start)}", do=did_you_mean(start[:200], sorted(names)))
        graph = backend.project.graph
        kept = {start} | ((graph.upstream(start) | graph.downstream(start)) & names)
        edges = {name: inputs & kept for name, inputs in edges.items() if name in kept}
    graph_order = [each.name for each in backend.project.graph.definitions if each.name in edges]
    return {
        "definitions": [
            {"name": name, "kind": backend.project.graph[name].kind, "inputs": sorted(edges[name])}
            for name in graph_order
        ]
    }


def _quality(backend: Backend, caller: Caller, asked: dict[str, str]) -> dict[str, Any]:
    """Return the expectations of tables that the caller sees entirely: they tell of all rows and columns."""
    names = [grant.definition.name for grant in backend.reading.authorizer.readable(caller) if _is_whole(grant)]
    if caller.may("operate"):
        names = [each.name for each in backend.project.graph.definitions]
    if "name" in asked:
        if asked["name"] not in names:
            name = asked["name"]
            raise UnknownError(f"there is no table {shown(name)}", do=did_you_mean(name[:200], names))
        names = [asked["name"]]
    return {"tables": [each for each in (_checks(backend, name) for name in names) if each is not None]}


def _checks(backend: Backend, name: str) -> dict[str, Any] | None:
    step = backend.workspace.catalog.last_step(name)
    if step is None:
        return None
    checks = [
        {
            "expectation": check.expectation,
            "condition": check.condition,
            "action": check.action.value,
            "rows": check.rows,
            "violations": check.violations,
        }
        for check in step.checks
    ]
    return {"name": name, "version": step.version, "decision": step.decision, "expectations": checks}


def _models(backend: Backend, caller: Caller, _: dict[str, str]) -> dict[str, Any]:
    from ml.models.registry.registry import Registry  # noqa: PLC0415 - imports MLflow, which is slow

    models, registry = _usable(backend, caller), Registry(backend.project.settings.models)
    found = []
    for model in models:
        roles = registry.roles(model.name)
        found.append(
            {
                "name": model.name,
                "description": model.description,
                "kind": model.kind,
                "roles": dict(roles.versions),
                "traffic": roles.traffic,
                "versions": sorted(registry.versions(model.name), key=lambda text: (len(text), text)),
            }
        )
    return {"models": found}


def _experiments(backend: Backend, caller: Caller, _: dict[str, str]) -> dict[str, Any]:
    names = _visible(backend, caller)
    found = [each for each in backend.project.graph.all_of(Experiment) if each.name in names]
    return {
        "experiments": [
            {
                "name": each.name,
                "description": each.description,
                "unit": each.unit,
                "variant": each.variant,
                "metrics": [metric.name for metric in each.transform.metrics],
            }
            for each in found
        ]
    }


def _usable(backend: Backend, caller: Caller) -> list[Any]:
    return [
        each
        for each in backend.models.definitions
        if caller.may("predict", each.name) or caller.may("operate", each.name)
    ]


def _visible(backend: Backend, caller: Caller) -> frozenset[str]:
    """Return the names of the definitions that exist for a caller."""
    if caller.may("operate"):
        return frozenset(each.name for each in backend.project.graph.definitions)
    readable = {grant.definition.name for grant in backend.reading.authorizer.readable(caller)}
    return frozenset(readable | {each.name for each in _usable(backend, caller)})


def _inputs(backend: Backend, name: str, visible: frozenset[str]) -> frozenset[str]:
    """Return the nearest visible definitions from which one is computed, past those that do not exist for the caller."""
    graph, seen = backend.project.graph, set[str]()

    def nearest(start: str) -> Iterator[str]:
        for each in graph[start].inputs:
            if each in seen:
                continue
            seen.add(each)
            if each in visible:
                yield each
            else:
                yield from nearest(each)

    return frozenset(nearest(name))


def _is_whole(grant: Grant) -> bool:
    policy = grant.policy
    return policy is None or not (policy.rows or policy.mask or policy.hide)
