"""The routes of OData: the service document, `$metadata`, and the resources of the tables."""

from __future__ import annotations

import json
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.access.gate import context_of
from serve.http_errors import TooLongError, UnknownError, UnsupportedError
from serve.odata.connection_files import ODC, PBIDS, odc, pbids
from serve.odata.headers import XML, json_form, preferences_of, require_xml, version_of
from serve.odata.metadata import metadata_document, service_document
from serve.odata.model import entity_sets, grant_of
from serve.odata.options import Options
from serve.odata.resources import Ask, Resource
from serve.odata.rows import read_resource
from serve.problems import ODATA
from serve.queries.query import MOST_ROWS
from serve.reading import Reading

MOST_QUERY_BYTES = 16 << 10


def odata_routes(reading: Reading, name: str, public_url: str = "") -> list[Route]:
    """Return the routes of a project's OData service. `public_url` is the address of the server, if clients use another one."""

    async def answer(request: Request) -> Response:
        caller = context_of(request.scope).caller
        response = await reading.run(caller, _answer, reading, name, public_url, request)
        response.headers["OData-Version"] = version_of(request.headers)
        return response

    return [
        Route(ODATA + "/$batch", _refuse_batch, methods=["POST"]),
        Route(ODATA, answer),
        Route(ODATA + "/{path:path}", answer),
    ]


def _refuse_batch(_: Request) -> Response:
    raise UnsupportedError("'$batch' is not supported", do="send each request by itself")


def _answer(reading: Reading, name: str, public_url: str, request: Request) -> Response:
    if len(request.scope["query_string"]) > MOST_QUERY_BYTES:
        raise TooLongError(f"the query is longer than {MOST_QUERY_BYTES} bytes", do="filter by fewer values")
    path = str(request.path_params.get("path", "")).removesuffix("/")
    base = (public_url or f"{request.url.scheme}://{request.url.netloc}").rstrip("/") + ODATA
    version = version_of(request.headers)
    options = Options.of(request.query_params.multi_items())
    accept, format_ = ",".join(request.headers.getlist("accept")), options.words.get("format")
    caller = context_of(request.scope).caller
    vary = {"Vary": "Accept, Authorization, Prefer, OData-MaxVersion", "Cache-Control": "private, no-cache"}
    if not path:
        options.require_only("format")
        form = json_form(accept, format_)
        document = service_document(base, entity_sets(reading, caller), with_context=form.metadata != "none")
        return Response(json.dumps(document).encode(), headers=vary | {"Content-Type": form.media_type})
    if path == "$metadata":
        options.require_only("format")
        require_xml(accept, format_)
        content = metadata_document(entity_sets(reading, caller), version)
        return Response(content, headers=vary, media_type=XML)
    if path == f"{name}.pbids":
        return _file(pbids(base), PBIDS, path)
    if path.endswith(".odc") and "/" not in path:
        grant_of(reading, caller, path.removesuffix(".odc"))
        return _file(odc(base, path.removesuffix(".odc")), ODC, path)
    if path.startswith("$"):
        raise UnknownError("there is no such resource", got=path[:80], do="see the service document")
    prefer = preferences_of(",".join(request.headers.getlist("prefer")), MOST_ROWS)
    ask = Ask(Resource.of(path), options, accept, prefer, base)
    response = read_resource(reading, context_of(request.scope), ask, request.headers)
    response.headers.update(vary)
    return response


def _file(content: bytes, media_type: str, name: str) -> Response:
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}", "Cache-Control": "no-store"}
    return Response(content, headers=headers, media_type=media_type)
