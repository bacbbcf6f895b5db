"""The REST interface of the schema registry: the one of Confluent's, so that its clients and serializers work unmodified."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, cast
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.core.errors import HeadwaterError
from pipeline.schema_registry.errors import RegistryError, schema_not_found
from pipeline.schema_registry.registry import GLOBAL, RegisteredSchema, SchemaRegistry
from pipeline.schema_registry.schemas import TYPES, Reference, SchemaText, SchemaType
from serve.http_errors import TooLargeError
from serve.request_body import read_body

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
MOST_BODY_BYTES = 4 << 20
_LATEST = ("latest", "-1")
_INTERNAL_ERROR = 50001
_MOST_NUMBER, _MOST_DIGITS = (1 << 31) - 1, 10
"""The largest id and version, as in Confluent's registry."""
Answer = Callable[["RegistryRequest"], Any]


class RegistryRequest:
    """A request with its parameters."""

    def __init__(self, registry: SchemaRegistry, request: Request, body: Mapping[str, Any]) -> None:
        """Keep the parts of a request."""
        self.registry = registry
        self.path = request.path_params
        self.query = request.query_params
        self.body = body

    def flag(self, *names: str) -> bool:
        """Return a boolean parameter, which some clients call otherwise, in any spelling: Python's write `True`."""
        return any(str(self.query.get(name, "")).lower() == "true" for name in names)

    @property
    def subject(self) -> str:
        """The subject in the path."""
        return unquote(str(self.path["subject"]))

    @property
    def version(self) -> int | Literal["latest"]:
        """The version in the path; raise `RegistryError` 42202."""
        return _version(str(self.path["version"]))

    @property
    def number(self) -> int:
        """The id in the path; raise `RegistryError` 40403 for one that no schema can have."""
        number = int(self.path["id"])
        if number > _MOST_NUMBER:
            raise schema_not_found()
        return number

    def given_number(self, name: str) -> int | None:
        """Return an id or a version in the body, `None` if there is none or -1; raise `ValueError` for no number."""
        value = self.body.get(name)
        if value is None or value == -1:
            return None
        text = str(value)  # Confluent's registry reads numbers in texts too
        digits = text.removeprefix("-")
        if not digits.isdecimal() or len(digits) > _MOST_DIGITS or int(digits) > _MOST_NUMBER:
            raise ValueError(f"{name} is not a number: {value!r}")
        return int(text)

    def schema(self) -> SchemaText:
        """Return the schema in the body; raise `RegistryError` 42201."""
        text, kind = self.body.get("schema"), self.body.get("schemaType") or "AVRO"
        if not isinstance(text, str) or not text or kind not in TYPES:
            raise RegistryError(42201, f"Invalid schema of type {kind}")
        try:
            references = tuple(
                Reference(str(each["name"]), str(each["subject"]), _reference_version(each["version"]))
                for each in self.body.get("references") or ()
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RegistryError(42201, "Invalid schema: a reference has a name, a subject and a version") from error
        return SchemaText(
            text, cast("SchemaType", kind), references, self.body.get("metadata"), self.body.get("ruleSet")
        )

    def page(self, found: Sequence[Any]) -> Sequence[Any]:
        """Return the page of a list that `offset` and `limit` name."""
        begin, limit = max(0, int(self.query.get("offset", 0))), int(self.query.get("limit", -1))
        return found[begin:] if limit < 0 else found[begin : begin + limit]


def registry_app(registry: SchemaRegistry) -> Starlette:
    """Return the application of a registry. There is no authentication: serve it only to those who may change schemas."""

    def route(path: str, answers: Mapping[str, Answer]) -> Route:
        async def endpoint(request: Request) -> Response:
            return await _answered(registry, request, answers[request.method])

        return Route(path, endpoint, methods=list(answers))

    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {HTTPException: _http_error}
    routes = [route(path, answers) for path, answers in _ROUTES]
    return Starlette(routes=routes, middleware=[Middleware(_EncodedPaths)], exception_handlers=handlers)


class _EncodedPaths:
    """Routes by paths as they were sent: subjects of imported Protobuf files, such as `shop%2Fmoney.proto`, contain slashes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path")
        sent = {**scope, "path": raw.partition(b"?")[0].decode("ascii", "replace")} if raw else scope
        await self._app(sent, receive, send)


async def _answered(registry: SchemaRegistry, request: Request, answer: Answer) -> Response:
    try:
        body = await read_body(request, MOST_BODY_BYTES, do="register a smaller schema")
        answered = await run_in_threadpool(answer, RegistryRequest(registry, request, _object(body)))
        return answered if isinstance(answered, Response) else _json(answered)
    except TooLargeError as error:
        return _json({"error_code": 41301, "message": str(error)}, error.status)
    except RegistryError as error:
        return _json({"error_code": error.code, "message": error.problem}, error.status)
    except (ValueError, RecursionError) as error:  # not JSON, or a parameter that is not a number
        return _json({"error_code": 42201, "message": f"Invalid request: {error}"}, 422)
    except HeadwaterError as error:  # the database is not available
        return _json({"error_code": _INTERNAL_ERROR, "message": str(error)}, 500)


def _object(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a body; an empty one if there is no body."""
    document = json.loads(body) if body else {}
    if not isinstance(document, dict):
        raise RegistryError(42201, "The body is not a JSON object")
    return document


async def _http_error(request: Request, error: HTTPException) -> Response:
    del request
    return _json(
        {"error_code": error.status_code, "message": f"HTTP {error.status_code} {error.detail}"}, error.status_code
    )


def _json(document: object, status: int = 200) -> Response:
    return Response(json.dumps(document, ensure_ascii=False), status, media_type=MEDIA_TYPE)


def _version(text: str) -> int | Literal["latest"]:
    if text in _LATEST:
        return "latest"
    if not text.isdecimal() or len(text) > _MOST_DIGITS or not 0 < int(text) <= _MOST_NUMBER:
        raise RegistryError(42202, f"The specified version '{text}' is not a valid version id")
    return int(text)


def _reference_version(value: object) -> int:
    number = int(str(value))
    if number > _MOST_NUMBER:
        raise ValueError(f"{number} is not a version")
    return number


def _parts(schema: SchemaText) -> dict[str, Any]:
    """Return the fields of a schema that clients expect only where they differ from Avro without references."""
    parts: dict[str, Any] = {} if schema.type == "AVRO" else {"schemaType": schema.type}
    if schema.references:
        parts["references"] = [asdict(each) for each in schema.references]
    if schema.metadata is not None:
        parts["metadata"] = schema.metadata
    if schema.rules is not None:
        parts["ruleSet"] = schema.rules
    return parts


def _text(schema: SchemaText, request: RegistryRequest) -> str:
    """Return the text of a schema in the requested format: Protobuf also as the Base64 of its file descriptor."""
    if schema.type != "PROTOBUF" or request.query.get("format") != "serialized":
        return schema.text
    return request.registry.serialized(schema)


def _text_alone(schema: SchemaText, request: RegistryRequest) -> Response:
    """Return a schema as it is, and not as a text in JSON; Confluent's registry does so for all types."""
    return Response(_text(schema, request), media_type=MEDIA_TYPE)


def _document(found: RegisteredSchema, request: RegistryRequest) -> dict[str, Any]:
    numbers = {"subject": found.subject, "version": found.version, "id": found.id, "guid": found.schema.guid}
    return {**numbers, **_parts(found.schema), "schema": _text(found.schema, request)}


def _register(request: RegistryRequest) -> dict[str, Any]:
    found = request.registry.register(
        request.subject,
        request.schema(),
        normalize=request.flag("normalize"),
        id=request.given_number("id"),
        version=request.given_number("version"),
    )
    return {**_document(found, request), "schema": request.body["schema"]}  # clients keep it in the form that they sent


def _lookup(request: RegistryRequest) -> dict[str, Any]:
    flags = {"normalize": request.flag("normalize"), "is_deleted": request.flag("deleted")}
    found = request.registry.lookup(request.subject, request.schema(), **flags)
    return {**_document(found, request), "schema": request.body["schema"]}


def _by_id(request: RegistryRequest) -> dict[str, Any]:
    schema = request.registry.schema(request.number)
    return {**_parts(schema), "schema": _text(schema, request), "guid": schema.guid}


def _by_guid(request: RegistryRequest) -> dict[str, Any]:
    schema = request.registry.schema_of_guid(str(request.path["guid"]))
    return {**_parts(schema), "schema": _text(schema, request), "guid": schema.guid}


def _subjects(request: RegistryRequest) -> Sequence[str]:
    found = request.registry.subjects(
        request.query.get("subjectPrefix", ""),
        is_deleted=request.flag("deleted"),
        only_deleted=request.flag("deletedOnly", "deleted_only"),
    )
    return request.page(found)


def _versions(request: RegistryRequest) -> Sequence[int]:
    found = request.registry.versions(
        request.subject, is_deleted=request.flag("deleted"), only_deleted=request.flag("deletedOnly", "deleted_only")
    )
    return request.page([each.version for each in found])


def _one_version(request: RegistryRequest) -> RegisteredSchema:
    return request.registry.version(request.subject, request.version, is_deleted=request.flag("deleted"))


def _uses(request: RegistryRequest) -> list[RegisteredSchema]:
    return request.registry.uses_of(request.number, is_deleted=request.flag("deleted"))


def _with_metadata(request: RegistryRequest) -> dict[str, Any]:
    wanted = dict(zip(request.query.getlist("key"), request.query.getlist("value"), strict=False))
    found = request.registry.with_metadata(request.subject, wanted, is_deleted=request.flag("deleted"))
    return _document(found, request)


def _compatible(request: RegistryRequest) -> dict[str, Any]:
    version = request.version if "version" in request.path else None
    problems = request.registry.problems(
        request.subject, request.schema(), version=version, normalize=request.flag("normalize")
    )
    return {"is_compatible": not problems, **({"messages": problems} if request.flag("verbose") else {})}


def _of(request: RegistryRequest) -> str:
    return unquote(str(request.path.get("subject", GLOBAL)))


def _level(request: RegistryRequest) -> dict[str, Any]:
    is_own = not request.flag("defaultToGlobal")
    return {"compatibilityLevel": request.registry.level(_of(request), is_own=is_own)}


def _set_level(request: RegistryRequest) -> Mapping[str, Any]:
    request.registry.set_level(_of(request), str(request.body.get("compatibility")))
    return request.body


def _remove_level(request: RegistryRequest) -> dict[str, Any]:
    level = request.registry.level(_of(request), is_own=True)
    request.registry.set_level(_of(request), None)
    return {"compatibilityLevel": level}


def _mode(request: RegistryRequest) -> dict[str, Any]:
    return {"mode": request.registry.mode(_of(request), is_own=not request.flag("defaultToGlobal"))}


def _set_mode(request: RegistryRequest) -> Mapping[str, Any]:
    request.registry.set_mode(_of(request), str(request.body.get("mode")), is_forced=request.flag("force"))
    return request.body


def _remove_mode(request: RegistryRequest) -> dict[str, Any]:
    mode = request.registry.mode(_of(request), is_own=True)
    request.registry.set_mode(_of(request), None)
    return {"mode": mode}


_SETTINGS: dict[str, Mapping[str, Answer]] = {
    "config": {"GET": _level, "PUT": _set_level, "DELETE": _remove_level},
    "mode": {"GET": _mode, "PUT": _set_mode, "DELETE": _remove_mode},
}
_SUBJECT, _VERSION = "/subjects/{subject}", "/subjects/{subject}/versions/{version}"
_CHECK = "/compatibility/subjects/{subject}/versions"
_ROUTES: Sequence[tuple[str, Mapping[str, Answer]]] = (
    ("/", {"GET": lambda _: {}, "POST": lambda _: {}}),
    ("/contexts", {"GET": lambda request: request.page(["."])}),
    ("/schemas/types", {"GET": lambda _: list(TYPES)}),
    ("/schemas/ids/{id:int}", {"GET": _by_id}),
    ("/schemas/ids/{id:int}/schema", {"GET": lambda r: _text_alone(r.registry.schema(r.number), r)}),
    ("/schemas/ids/{id:int}/subjects", {"GET": lambda r: r.page(sorted({each.subject for each in _uses(r)}))}),
    (
        "/schemas/ids/{id:int}/versions",
        {"GET": lambda r: r.page([{"subject": each.subject, "version": each.version} for each in _uses(r)])},
    ),
    ("/schemas/guids/{guid}", {"GET": _by_guid}),
    ("/subjects", {"GET": _subjects}),
    (
        _SUBJECT,
        {
            "POST": _lookup,
            "DELETE": lambda r: r.registry.delete_subject(r.subject, is_permanent=r.flag("permanent")),
        },
    ),
    (f"{_SUBJECT}/versions", {"GET": _versions, "POST": _register}),
    (f"{_SUBJECT}/metadata", {"GET": _with_metadata}),
    (
        _VERSION,
        {
            "GET": lambda r: _document(_one_version(r), r),
            "DELETE": lambda r: r.registry.delete_version(r.subject, r.version, is_permanent=r.flag("permanent")),
        },
    ),
    (f"{_VERSION}/schema", {"GET": lambda r: _text_alone(_one_version(r).schema, r)}),
    (f"{_VERSION}/referencedby", {"GET": lambda r: r.registry.referenced_by(r.subject, r.version)}),
    (_CHECK, {"POST": _compatible}),
    (_CHECK + "/{version}", {"POST": _compatible}),
    *((f"/{name}", answers) for name, answers in _SETTINGS.items()),
    *((f"/{name}/{{subject}}", answers) for name, answers in _SETTINGS.items()),
)
