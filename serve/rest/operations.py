"""The routes for those who operate a project: runs, and the state of streams. They need the scope `operate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.core.errors import DefinitionError, RequestError
from pipeline.governance.catalog import RunRecord
from pipeline.kernel.engine import connect
from pipeline.kernel.sql_text import quoted
from pipeline.streaming.runtime.state_query import committed_state, where
from serve.access.authorization import require_scope
from serve.access.gate import context_of
from serve.backend import Backend
from serve.http_errors import HttpError, UnknownError
from serve.queries.expressions import plain
from serve.queries.formats import JSON, with_rows
from serve.queries.parameters import integer
from serve.queries.values import shown
from serve.rest.catalog import words_of

MOST_RUNS, _RUNS = 1_000, 20
MOST_STATE_ROWS, _ROWS = 10_000, 100


def operation_routes(backend: Backend) -> list[Route]:
    """Return the routes of runs and of the state of streams."""

    async def list_runs(request: Request) -> Response:
        context = context_of(request.scope)
        require_scope(context.caller, "operate")
        context.facts["why"] = "scope operate"
        asked = words_of(request, ("limit",))
        limit = integer("limit", asked.get("limit", str(_RUNS)), 1, MOST_RUNS)
        runs = await backend.reading.run(context.caller, backend.workspace.catalog.runs, limit)
        return JSONResponse({"runs": [_run(each) for each in runs]})

    async def read_run(request: Request) -> Response:
        context, run_id = context_of(request.scope), request.path_params["run_id"]
        require_scope(context.caller, "operate")
        context.facts["why"] = "scope operate"
        words_of(request, ())
        found = await backend.reading.run(context.caller, backend.workspace.catalog.run, run_id)
        if found is None:
            raise UnknownError(f"there is no run {shown(run_id)}", do="list them at /v1/runs")
        return JSONResponse({**_run(found), "steps": [_step(each) for each in found.steps]})

    async def read_state(request: Request) -> Response:
        context, name = context_of(request.scope), request.path_params["name"]
        require_scope(context.caller, "operate", name)
        context.facts.update(table=name, why="scope operate")
        asked = words_of(request, ("table", "limit"), repeated=("key",))
        keys = _keys(request.query_params.getlist("key"))
        limit = integer("limit", asked.get("limit", str(_ROWS)), 1, MOST_STATE_ROWS)
        body = await backend.reading.run(context.caller, _state, backend, name, asked.get("table"), keys, limit)
        return Response(body, media_type=JSON)

    return [
        Route("/v1/runs", list_runs),
        Route("/v1/runs/{run_id}", read_run),
        Route("/v1/streams/{name}/state", read_state),
    ]


def _run(run: RunRecord) -> dict[str, Any]:
    return {
        "id": run.run_id,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "status": run.status,
        "error": run.error,
    }


def _step(step: Any) -> dict[str, Any]:
    return {
        "name": step.name,
        "kind": step.kind,
        "decision": step.decision,
        "reason": step.reason,
        "version": step.version,
        "seconds": step.seconds,
        "rows": step.total_rows,
        "flow": asdict(step.flow),
    }


def _keys(texts: list[str]) -> Mapping[str, str]:
    keys: dict[str, str] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not column or not equals:
            raise HttpError("'key' names a column and its value", got=shown(text), do="write key=COLUMN=VALUE")
        if column in keys:
            raise HttpError(f"the column {shown(column)} is there twice", do="send each once")
        keys[column] = value
    return keys


def _state(backend: Backend, name: str, table: str | None, keys: Mapping[str, str], limit: int) -> bytes:
    if name not in backend.workspace.table_names:
        raise UnknownError(f"there is no stream {shown(name)}", do="see /v1/lineage")
    if backend.workspace.version(name) is None:
        raise UnknownError(f"stream {name!r} has not run yet", do=f"run `headwater stream {name}`")
    try:
        view = committed_state(backend.workspace, name)
    except (RequestError, DefinitionError) as error:  # it is not a stream, or has no state
        raise UnknownError(error.problem, do=error.do) from error
    rows = where(view.table(table), keys, limit + 1)
    head = {
        "stream": name,
        "epoch": view.epoch,
        "tables": list(view.tables),
        "is_truncated": rows.num_rows > limit,
    }
    return with_rows(head, f"[{','.join(_objects(rows.slice(0, limit)))}]".encode())


def _objects(rows: pa.Table) -> list[str]:
    fields = ", ".join(f"{quoted(each.name)} := {plain(quoted(each.name), each.type)}" for each in rows.schema)
    with connect() as con:
        con.register("_state", rows)
        return [
            text for (text,) in con.execute(f"select to_json(struct_pack({fields}))::varchar from _state").fetchall()
        ]
