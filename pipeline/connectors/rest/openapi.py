"""Descriptions of APIs by OpenAPI 3 or Swagger 2: where an operation is, its parameters, and the types of its rows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from pipeline.connectors.http.json_rows import USUAL_KEYS
from pipeline.connectors.json_schema import columns_of, resolved
from pipeline.connectors.rest.pages import BodyCursor, Offset, PageNumber, Pages
from pipeline.connectors.rest.source import RestApi, rest
from pipeline.core.errors import DefinitionError, Place, did_you_mean

_MOST_BYTES = 32 << 20
_NUMBERS = ("page", "page_number", "pageNumber")
_OFFSETS = ("offset", "skip", "$skip")
_CURSORS = ("cursor", "page_token", "pageToken", "after", "next_token", "nextToken")
_NEXT = ("next_cursor", "nextCursor", "next_page_token", "nextPageToken", "next_token", "nextToken", "end_cursor")


@dataclass(frozen=True)
class Operation:
    """A GET operation of an API."""

    path: str
    parameters: Mapping[str, Mapping[str, Any]]
    """By name."""
    response: Mapping[str, Any]
    """The JSON Schema of a successful response; empty if it is not described."""


@dataclass(frozen=True)
class ApiDescription:
    """The description of an API. Create it with `openapi`."""

    document: Mapping[str, Any] = field(repr=False)
    place: Place
    base: str | None = None

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The operations that return JSON, by id and by path."""
        found: dict[str, Operation] = {}
        for path, item in _mapping(self.document.get("paths")).items():
            get = _mapping(_mapping(item).get("get"))
            if get:
                operation = Operation(str(path), dict(self._parameters(_mapping(item), get)), self._response(get))
                found |= {
                    str(path): operation,
                    **({str(get["operationId"]): operation} if get.get("operationId") else {}),
                }
        return found

    def operation(self, name: str) -> Operation:
        """Return an operation by id or path; raise `DefinitionError` if there is none."""
        operations = self.operations
        if name not in operations:
            do = did_you_mean(name, operations)
            raise DefinitionError(f"the API has no GET operation {name!r}", do=do, place=self.place)
        return operations[name]

    def rest(self, operation: str, *, params: Mapping[str, object] | None = None, **options: Any) -> RestApi:
        """Return the reader of an operation; `options` are those of `rest` and replace what the description says.

        `params` are the parameters of the path and of the query. The path of the rows and the style of pagination are
        taken from the description as far as they are clear; otherwise they are detected in the first response. Raises
        `DefinitionError` for a parameter that does not exist, and for a required one that is missing.
        """
        found, given = self.operation(operation), dict(params or {})
        self._require_parameters(found, given)
        path = f"/{found.path.lstrip('/')}"
        for name in [name for name, each in found.parameters.items() if each.get("in") == "path"]:
            path = path.replace("{" + name + "}", quote(str(given.pop(name)), safe=""))
        known: dict[str, Any] = {"rows": _path_text(self._rows(found.response)), "pages": self._pages(found)}
        known |= {name: value for name, value in options.items() if value is not None}
        return rest(
            self.server() + path, params=given, **{name: value for name, value in known.items() if value is not None}
        )

    def schema(self, operation: str) -> Mapping[str, str]:
        """Return the columns of an operation's rows with their types, for `schema=` of a source.

        Raises `DefinitionError` if the description does not say what the rows are.
        """
        response = self.operation(operation).response
        keys = self._rows(response)
        node: Any = response
        for key in keys or ():
            node = _mapping(resolved(node, self.document).get("properties")).get(key)
        node = resolved(node, self.document)
        columns = columns_of(node.get("items", node), self.document) if keys is not None else None
        if columns is None or not columns.columns:
            do = "pass schema= to the source, or none to infer it"
            raise DefinitionError(f"the rows of {operation!r} are not described", do=do, place=self.place)
        return columns.as_dict()

    def server(self) -> str:
        """Return the address of the API; raise `DefinitionError` if the description has none."""
        servers = self.document.get("servers")
        described = _mapping(servers[0]) if isinstance(servers, list) and servers else {}
        url = str(described.get("url", ""))
        for name, variable in _mapping(described.get("variables")).items():
            url = url.replace("{" + str(name) + "}", str(_mapping(variable).get("default", "")))
        if not servers and self.document.get("host"):  # Swagger 2
            schemes = self.document.get("schemes") or ["https"]
            url = f"{schemes[0]}://{self.document['host']}{self.document.get('basePath', '')}"
        has_scheme = url.startswith(("http://", "https://"))
        url = urljoin(f"{self.base.rstrip('/')}/", url) if self.base and not has_scheme else self.base or url
        if not url.startswith(("http://", "https://")):
            do = "pass url= to openapi(…)"
            raise DefinitionError("the description has no address of the API", got=repr(url), do=do, place=self.place)
        return url.rstrip("/")

    def _require_parameters(self, operation: Operation, given: Mapping[str, object]) -> None:
        for name in given:
            if name not in operation.parameters:
                do = did_you_mean(name, operation.parameters)
                raise DefinitionError(f"{operation.path} has no parameter {name!r}", do=do, place=self.place)
        missing = [n for n, each in operation.parameters.items() if _is_required(each) and n not in given]
        if missing:
            problem = f"{operation.path} requires the parameter {missing[0]!r}"
            raise DefinitionError(problem, do=f"pass params={{{missing[0]!r}: …}}", place=self.place)

    def _parameters(self, item: Mapping[str, Any], get: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        listed = (each for each in (item.get("parameters"), get.get("parameters")) if isinstance(each, list))
        for each in itertools.chain(*listed):
            parameter = resolved(each, self.document)
            if parameter.get("in") in {"path", "query"}:
                yield str(parameter.get("name")), parameter

    def _response(self, get: Mapping[str, Any]) -> Mapping[str, Any]:
        responses = {str(code): each for code, each in _mapping(get.get("responses")).items()}  # YAML has numbers
        chosen = _first(("200", "2XX", "206", "default"), responses)
        response = {} if chosen is None else resolved(responses[chosen], self.document)
        if isinstance(response.get("schema"), Mapping):  # Swagger 2
            return _mapping(response["schema"])
        kinds = _mapping(response.get("content"))
        content = next((_mapping(each) for kind, each in kinds.items() if "json" in str(kind)), {})
        return _mapping(content.get("schema"))

    def _rows(self, response: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return the keys of the array of rows; `None` if it is not clear."""
        node = resolved(response, self.document)
        if node.get("type") == "array":
            return ()
        properties = {
            str(name): resolved(each, self.document) for name, each in _mapping(node.get("properties")).items()
        }
        arrays = [name for name, each in properties.items() if each.get("type") == "array"]
        usual = [name for name in USUAL_KEYS if name in arrays]
        chosen = usual or arrays
        return (chosen[0],) if usual or len(arrays) == 1 else None

    def _pages(self, operation: Operation) -> Pages | None:
        """Return the style of pagination that the parameters show; `None` if it is to be detected."""
        names = operation.parameters
        properties = _mapping(resolved(operation.response, self.document).get("properties"))
        parameter, cursor = _first(_CURSORS, names), _first(_NEXT, properties)
        if parameter is not None and cursor is not None:
            return BodyCursor(f"$.{cursor}", parameter)
        number, offset = _first(_NUMBERS, names), _first(_OFFSETS, names)
        if offset is not None:
            return Offset(offset, limit=None)
        if number is not None:
            begin = _mapping(names[number].get("schema") or names[number]).get("default", 1)
            return PageNumber(number, begin=begin if begin in {0, 1} else 1)
        return None


def openapi(path: str | Path, *, url: str | None = None) -> ApiDescription:
    """Read the description of an API from a file in JSON or YAML.

        shop = openapi(Path(__file__).with_name("shop.yaml"))
        orders = source(shop.rest("listOrders", auth=Bearer("env:SHOP")), schema=shop.schema("listOrders"))

    `url` is the address of the API, if it is not that of the description. Raises `DefinitionError` if the file cannot be read,
    or is not a description.
    """
    place = Place(str(path))
    try:
        if Path(path).stat().st_size > _MOST_BYTES:
            raise DefinitionError(
                "the description of the API is too large", got=f"more than {_MOST_BYTES:,} bytes", place=place
            )
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DefinitionError("the description of the API cannot be read", got=str(error), place=place) from error
    document = _parsed(text, place)
    if not isinstance(document, Mapping) or not isinstance(document.get("paths"), Mapping):
        raise DefinitionError("this is not a description by OpenAPI", got="no paths", place=place)
    return ApiDescription(document, place, url)


def _parsed(text: str, place: Place) -> Any:
    try:
        if text.lstrip().startswith("{"):
            return json.loads(text)
        import yaml  # noqa: PLC0415 - optional dependency

        return yaml.safe_load(text)
    except ImportError as error:
        raise DefinitionError(
            "YAML is not installed", do="pip install pyyaml, or convert the file to JSON", place=place
        ) from error
    except (ValueError, RecursionError) as error:
        raise DefinitionError("the description is not valid JSON", got=str(error), place=place) from error
    except yaml.YAMLError as error:
        raise DefinitionError(
            "the description is not valid YAML", got=" ".join(str(error).split()), place=place
        ) from error


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(names: tuple[str, ...], known: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in known), None)


def _is_required(parameter: Mapping[str, Any]) -> bool:
    has_default = "default" in _mapping(parameter.get("schema") or parameter)
    return parameter.get("in") == "path" or (bool(parameter.get("required")) and not has_default)


def _path_text(keys: tuple[str, ...] | None) -> str | None:
    return None if keys is None else "$" + "".join(f"['{key}']" for key in keys)
