"""The routes of tables: which there are, their rows, and how these changed."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serve.access.gate import context_of
from serve.reading import Reading
from serve.rest.rows import read_rows
from serve.status import describe


def table_routes(reading: Reading) -> list[Route]:
    """Return the routes of the tables that callers may read."""

    def list_tables(request: Request) -> Response:
        caller = context_of(request.scope).caller
        grants = reading.authorizer.readable(caller)
        return JSONResponse({"tables": [describe(reading, caller, grant) for grant in grants]})

    async def read_table(request: Request) -> Response:
        caller = context_of(request.scope).caller
        return await reading.run(caller, read_rows, reading, request.path_params["name"], request)

    async def read_changes(request: Request) -> Response:
        caller = context_of(request.scope).caller
        return await reading.run(caller, read_rows, reading, request.path_params["name"], request, changes=True)

    return [
        Route("/v1/tables", list_tables),
        Route("/v1/tables/{name}", read_table),
        Route("/v1/tables/{name}/changes", read_changes),
    ]
