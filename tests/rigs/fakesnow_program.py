"""A server that speaks Snowflake's protocol: fakesnow, with what loading needs and it does not have.

Run by the Python of `.peers-snowflake`: `python fakesnow_program.py PORT`. Added here:

- what closing a session needs; REMOVE of a folder of a stage;
- a MERGE inside a transaction, which fakesnow's own bookkeeping in another database would end;
- COPY into a temporary table; quotes in comments;
- an error of the statement for what it does not understand, instead of an internal error, which clients repeat;
- a rollback when a session is closed, and of the transactions of dead clients (`GET /abandon`), as Snowflake does after
  some minutes if they block others.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys

import duckdb
import fakesnow.cursor
import fakesnow.server
import uvicorn
from fakesnow import copy_into, info_schema
from fakesnow.transforms import stage
from starlette.responses import JSONResponse
from starlette.routing import Route

_REMOVE = re.compile(r"\s*REMOVE\s+@(\w+)/(\S+)/\s*$", re.IGNORECASE)
_execute = fakesnow.cursor.FakeSnowflakeCursor.execute
_describe = copy_into._describe_table  # noqa: SLF001 - has no public form
_comment = info_schema.insert_table_comment_sql


def execute(self, command, *args, **options):
    match = _REMOVE.match(command)
    if match is not None:
        conn = self._conn
        folder = stage.internal_dir(f"{conn.database}.{conn.schema}.{match[1].upper()}", match[2])
        shutil.rmtree(folder, ignore_errors=True)
        command = "SELECT 'removed' AS \"result\""
    if "system$cancel_all_queries" in command:
        command = "SELECT 'cancelled' AS \"result\""
    return _execute(self, command, *args, **options)


def describe(table, con, database, schema):
    try:
        return _describe(table, con, database, schema)
    except duckdb.CatalogException:
        return [(row[0], row[1]) for row in con.execute(f'DESCRIBE "{table.name}"').fetchall()]


def comment(catalog, schema, table, words):
    if table.upper() == "MERGE_CANDIDATES":
        return "SELECT 1"
    return _comment(catalog, schema, table, words and words.replace("'", "''"))


def roll_back(conn) -> None:
    conn.cursor().execute("ROLLBACK")


async def log_in(request):
    """Answer with a master token, without which clients cannot close their sessions."""
    answer = json.loads((await fakesnow.server.login_request(request)).body)
    return JSONResponse({**answer, "data": {**answer["data"], "masterToken": "master"}})


async def close_session(request):
    if request.query_params.get("delete"):
        roll_back(fakesnow.server.to_conn(fakesnow.server.to_token(request)))
    return await fakesnow.server.session(request)


async def query(request):
    """Answer what fakesnow does not understand as an error of the statement, which clients do not repeat."""
    answer = await fakesnow.server.query_request(request)
    if answer.status_code == 500:
        failed = json.loads(answer.body)
        data = {"errorCode": failed["code"], "sqlState": "0A000"}
        return JSONResponse({**failed, "data": data, "message": f"fakesnow: {failed['message']}"})
    return answer


async def abandon(request):
    del request
    for conn in fakesnow.server.sessions.values():
        roll_back(conn)
    fakesnow.server.sessions.clear()
    return JSONResponse({"success": True})


if __name__ == "__main__":
    fakesnow.cursor.FakeSnowflakeCursor.execute = execute
    copy_into._describe_table = describe  # noqa: SLF001 - likewise
    info_schema.insert_table_comment_sql = comment
    app = fakesnow.server.app
    app.router.routes[:0] = [
        Route("/session/v1/login-request", log_in, methods=["POST"]),
        Route("/session", close_session, methods=["POST"]),
        Route("/queries/v1/query-request", query, methods=["POST"]),
        Route("/abandon", abandon, methods=["GET"]),
    ]
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level=os.environ.get("FAKESNOW_LOG", "critical"))
