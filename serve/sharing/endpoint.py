"""The routes of Delta Sharing: a share with a schema for each layer, the tables' metadata, and addresses of their files."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from pipeline.lake import Version
from serve.access.authorization import Grant
from serve.access.caller import Caller
from serve.access.gate import context_of
from serve.access.signed_urls import SignedUrls
from serve.exported_files import ExportedFiles
from serve.http_errors import GoneError, HttpError, UnauthenticatedError, UnknownError
from serve.problems import SHARING
from serve.queries.parameters import integer, time_of, version_number
from serve.queries.values import shown
from serve.reading import Reading
from serve.request_body import json_object, read_body
from serve.sharing.delta_types import schema_string, shared_schema
from serve.tables import reading_files

FILES = f"{SHARING}/files"
NDJSON = "application/x-ndjson; charset=utf-8"
_MOST_BODY = 64 << 10
_MOST_ITEMS = 500
_TABLE = SHARING + "/shares/{share}/schemas/{schema}/tables/{table}"


@dataclass(frozen=True)
class SharingServer:
    """What the routes need."""

    reading: Reading
    exports: ExportedFiles
    signatures: SignedUrls
    share: str
    """The name of the only share: the project's."""
    public_url: str = ""

    def grants(self, request: Request) -> list[Grant]:
        """Return the tables that a caller may read; raise `UnauthenticatedError` without a key."""
        return self.reading.authorizer.readable(_caller(request))

    def schemas(self, request: Request) -> list[str]:
        """Return the layers of the tables that a caller may read."""
        self.require_share(request)
        return list(dict.fromkeys(each.definition.layer for each in self.grants(request)))

    def require_share(self, request: Request) -> None:
        """Raise `UnknownError` for another share than this project's."""
        _caller(request)
        if request.path_params["share"].lower() != self.share.lower():
            raise UnknownError(
                f"there is no share {shown(request.path_params['share'])}", do=f"there is {self.share!r}"
            )

    def grant(self, request: Request) -> Grant:
        """Return how a caller may read a table; raise `UnknownError` if it may not."""
        self.require_share(request)
        words = request.path_params["schema"].lower(), request.path_params["table"].lower()
        for each in self.grants(request):
            if (each.definition.layer.lower(), each.definition.name.lower()) == words:
                return each
        raise UnknownError(f"there is no table {shown(request.path_params['table'])}", do="list the tables")

    def table(self, grant: Grant) -> dict[str, str]:
        """Return a table as lists show it."""
        definition = grant.definition
        return {"name": definition.name, "schema": definition.layer, "share": self.share, "id": self.id(grant)}

    def id(self, grant: Grant) -> str:
        """Return the id of a table."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"headwater:{self.share}/{grant.definition.name}"))


def sharing_routes(server: SharingServer) -> list[Route]:
    """Return the routes of a project's share."""
    return [
        *_lists(server),
        *_of_tables(server),
        Route(FILES + "/{export}/{file}", lambda request: _file(server, request)),
    ]


def _lists(server: SharingServer) -> list[Route]:
    share = f"{SHARING}/shares/{{share}}"

    def one_share(request: Request) -> Response:
        server.require_share(request)
        return JSONResponse({"share": {"name": server.share}})

    def shares(request: Request) -> Response:
        return _page(request, [{"name": server.share}] if server.grants(request) else [])

    def schemas(request: Request) -> Response:
        return _page(request, [{"name": name, "share": server.share} for name in server.schemas(request)])

    def tables(request: Request) -> Response:
        name = request.path_params["schema"].lower()
        if name not in server.schemas(request):
            raise UnknownError(f"there is no schema {shown(name)}", do="list the schemas")
        return _page(request, [server.table(each) for each in server.grants(request) if each.definition.layer == name])

    def all_tables(request: Request) -> Response:
        server.require_share(request)
        return _page(request, [server.table(each) for each in server.grants(request)])

    return [
        Route(f"{SHARING}/shares", shares),
        Route(share, one_share),
        Route(f"{share}/schemas", schemas),
        Route(f"{share}/all-tables", all_tables),
        Route(f"{share}/schemas/{{schema}}/tables", tables),
    ]


def _of_tables(server: SharingServer) -> list[Route]:
    def version(request: Request) -> Response:
        return Response(b"", headers=_head(server.reading.tables.version(server.grant(request).definition.name)))

    def metadata(request: Request) -> Response:
        return _lines(server, request, request.query_params, with_files=False)

    async def query(request: Request) -> Response:
        body = await read_body(request, _MOST_BODY, do="send fewer hints")
        return await server.reading.run(_caller(request), _lines, server, request, _options(body), with_files=True)

    def changes(request: Request) -> Response:
        server.grant(request)
        raise HttpError("the change data feed is not shared", do="read the table as of a version")

    return [
        Route(_TABLE, version),
        Route(f"{_TABLE}/version", version),
        Route(f"{_TABLE}/metadata", metadata),
        Route(f"{_TABLE}/query", query, methods=["POST"]),
        Route(f"{_TABLE}/changes", changes),
    ]


def _lines(server: SharingServer, request: Request, options: Mapping[str, object], *, with_files: bool) -> Response:
    """Return the metadata of a table, and the addresses of its files if these are asked for."""
    grant, context = server.grant(request), context_of(request.scope)
    if "startingVersion" in options or "endingVersion" in options:
        raise HttpError("the history of the table is not shared", do="read it as of a version")
    version = _version(server.reading, grant, options)
    relation = server.reading.authorizer.relation(grant, context.caller, version)
    schema = shared_schema(relation.schema)
    context.facts.update(table=relation.table, version=relation.version, why=grant.reason)
    lines: list[Mapping[str, object]] = [
        {"protocol": {"minReaderVersion": 1}},
        {
            "metaData": {
                "id": server.id(grant),
                "name": relation.table,
                "description": grant.definition.description,
                "format": {"provider": "parquet"},
                "schemaString": schema_string(schema),
                "partitionColumns": [],
                "configuration": {},
            }
        },
    ]
    if with_files:
        is_pinned = not {"version", "timestamp"}.isdisjoint(options)
        with reading_files(relation.table, relation.version, is_pinned=is_pinned):
            export = server.exports.of(relation, schema)
        context.facts["rows"] = sum(each.rows for each in export.files)
        lines += _files(
            server, request, [(f"{FILES}/{export.name}/{f.name}", f.size_bytes, f.rows) for f in export.files]
        )
    body = "\n".join(json.dumps(line) for line in lines) + "\n"
    return Response(body.encode(), headers=_head(version) | {"Content-Type": NDJSON, "Cache-Control": "no-store"})


def _files(
    server: SharingServer, request: Request, files: Sequence[tuple[str, int, int]]
) -> Iterator[dict[str, object]]:
    base = server.public_url or f"{request.url.scheme}://{request.url.netloc}"
    for path, size, rows in files:
        signed, until = server.signatures.sign(path, context_of(request.scope).caller)
        yield {
            "file": {
                "url": base + signed,
                "id": path.removeprefix(FILES),
                "partitionValues": {},
                "size": size,
                "stats": json.dumps({"numRecords": rows}),
                "expirationTimestamp": until * 1000,
            }
        }


def _file(server: SharingServer, request: Request) -> Response:
    if server.signatures.caller(request.scope["path"], request.url.query) is None:
        raise UnauthenticatedError("the address is not valid any more", do="ask for the table again")
    path = server.exports.path(request.path_params["export"], request.path_params["file"])
    if path is None:
        raise GoneError("the file is not there any more", do="ask for the table again")
    context_of(request.scope).facts.update(table=path.parent.name.partition("-")[0], why="a signed address")
    return FileResponse(path, media_type="application/vnd.apache.parquet", headers={"Cache-Control": "no-store"})


def _version(reading: Reading, grant: Grant, options: Mapping[str, object]) -> Version:
    number, time = options.get("version"), options.get("timestamp")
    if number is not None and time is not None:
        raise HttpError("'timestamp' and 'version' are both given", do="give one of them")
    return reading.tables.version(
        grant.definition.name,
        None if number is None else version_number("version", str(number)),
        None if time is None else time_of("timestamp", str(time)),
    )


def _options(body: bytes) -> Mapping[str, object]:
    return json_object(body, '{} or {"version": 7}') if body.strip() else {}


def _page(request: Request, items: list[dict[str, str]]) -> Response:
    words = request.query_params
    begin = integer("pageToken", words.get("pageToken") or "0", 0, 1 << 31)
    size = integer("maxResults", words.get("maxResults", str(_MOST_ITEMS)), 0, 1 << 31)
    end = begin + min(size, _MOST_ITEMS)
    following = {"nextPageToken": str(end)} if end < len(items) else {}
    return JSONResponse({"items": items[begin:end]} | following)


def _head(version: Version) -> dict[str, str]:
    return {"Delta-Table-Version": str(version.number)}


def _caller(request: Request) -> Caller:
    caller = context_of(request.scope).caller
    if caller.is_anonymous:
        raise UnauthenticatedError("a key is needed", do="use the profile that `headwater keys create` wrote")
    return caller
