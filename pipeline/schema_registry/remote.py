"""A schema registry on a server, by the REST interface of Confluent's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any, Literal, Self, cast
from urllib.parse import quote, urlsplit

from pipeline.connectors.guard import guarded
from pipeline.connectors.guard.calls import RetryRule
from pipeline.core.errors import Place, RequestError, SourceError
from pipeline.core.extras import imports_of
from pipeline.schema_registry.errors import RegistryError
from pipeline.schema_registry.parsing import parse
from pipeline.schema_registry.registry import RegisteredSchema
from pipeline.schema_registry.schemas import TYPES, ParsedSchema, Reference, SchemaText, SchemaType

_REFUSALS = frozenset({404, 409, 422})
"""The statuses of answers that say why a request cannot be met."""
_SUBJECT_NOT_FOUND = 40401
_RETRIES = RetryRule(attempts=3, deadline_s=10.0)


class RemoteRegistry:
    """The part of `SchemaRegistry` that people use from the command line, of a registry on a server. A context manager.

    Raises `RegistryError` with the message of the registry; `SourceUnavailableError` if it does not answer, and `SourceError`
    if it refuses the user, or if what answers is no registry.
    """

    def __init__(self, url: str, password: str | None = None) -> None:
        """Create the client of a registry at `http(s)://[USER@]HOST`; a password is a reference, such as `env:NAME`.

        Raises `RequestError` for another URL.
        """
        with imports_of("rest", "a schema registry on a server"):
            from pipeline.connectors.http.client import HttpClient, HttpLimits, Identity  # noqa: PLC0415 - optional
            from pipeline.connectors.http.credentials import Basic  # noqa: PLC0415 - likewise
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            do = "write http://HOST:8081 or https://USER@HOST"
            raise RequestError("this is not the URL of a schema registry", got=repr(parts.scheme), do=do)
        if parts.password is not None:
            raise RequestError("the URL of the registry contains a password", do="pass --password env:NAME")
        if (parts.username is None) != (password is None):
            raise RequestError(
                "a user and a password belong together", do="write https://USER@HOST and --password env:NAME"
            )
        host = parts.netloc.rpartition("@")[2]
        self._url = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        identity = None if password is None else Identity(Basic(parts.username or "", password))
        self._client = HttpClient(self._url, guarded(host, retries=_RETRIES), identity, HttpLimits(timeout_s=30))

    def __enter__(self) -> Self:
        """Return the registry."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its connections."""
        self._client.close()

    def subjects(self) -> list[str]:
        """Return the names of all subjects, in order."""
        return sorted(map(str, self._asked("GET", "subjects")))

    def version(self, subject: str, version: int | Literal["latest"], *, is_deleted: bool = False) -> RegisteredSchema:
        """Return a version of a subject; with `is_deleted`, also one that is deleted."""
        path = f"{_path(subject)}/versions/{version}"
        return self._registered(self._asked("GET", path, {"deleted": "true"} if is_deleted else {}))

    def versions(self, subject: str, *, is_deleted: bool = False) -> list[RegisteredSchema]:
        """Return the versions of a subject in order; with `is_deleted`, also those that are deleted."""
        path, deleted = f"{_path(subject)}/versions", {"deleted": "true"}
        numbers = self._asked("GET", path, deleted if is_deleted else {})
        kept = set(self._kept(path)) if is_deleted else set(numbers)
        found = [self.version(subject, int(number), is_deleted=is_deleted) for number in sorted(numbers)]
        return [each if each.version in kept else _deleted(each) for each in found]

    def level(self, subject: str) -> str:
        """Return the compatibility of a subject: its own, or that of the registry."""
        return str(self._asked("GET", f"config/{_quoted(subject)}", {"defaultToGlobal": "true"})["compatibilityLevel"])

    def problems(self, subject: str, schema: SchemaText) -> list[str]:
        """Return why a schema is not compatible with the versions of a subject that its level names."""
        path = f"compatibility/{_path(subject)}/versions"
        try:
            answer = self._asked("POST", path, {"verbose": "true"}, _body(schema))
        except RegistryError as error:
            if error.code == _SUBJECT_NOT_FOUND:
                return []
            raise
        if answer["is_compatible"]:
            return []
        return [str(each) for each in answer.get("messages") or ["the registry does not say why"]]

    def register(self, subject: str, schema: SchemaText) -> RegisteredSchema:
        """Register a version of a subject; return it, or the version that has this schema already."""
        self._asked("POST", f"{_path(subject)}/versions", body=_body(schema))
        return self._registered(self._asked("POST", _path(subject), body=_body(schema)))

    def parsed(self, registered: RegisteredSchema) -> ParsedSchema:
        """Parse the schema of a version, to compare it."""
        return parse(registered.schema, lambda each: self.version(each.subject, each.version, is_deleted=True).schema)

    def _kept(self, path: str) -> list[int]:
        """Return the versions that are not deleted; none if all are, which registries call an unknown subject."""
        try:
            return [int(each) for each in self._asked("GET", path)]
        except RegistryError as error:
            if error.code == _SUBJECT_NOT_FOUND:
                return []
            raise

    def _registered(self, answer: Mapping[str, Any]) -> RegisteredSchema:
        references = tuple(
            Reference(str(each["name"]), str(each["subject"]), int(each["version"]))
            for each in answer.get("references") or ()
        )
        kind = answer.get("schemaType") or "AVRO"
        if kind not in TYPES:
            raise RegistryError(42201, f"Schemas of type {kind} are not known here")
        schema = SchemaText(
            str(answer["schema"]), cast("SchemaType", kind), references, answer.get("metadata"), answer.get("ruleSet")
        )
        return RegisteredSchema(str(answer["subject"]), int(answer["version"]), int(answer["id"]), schema)

    def _asked(self, method: str, path: str, params: Mapping[str, str] | None = None, body: Any = None) -> Any:
        from pipeline.connectors.http.client import ApiRequest  # noqa: PLC0415 - an optional dependency

        url = f"{self._url}/{path}"
        accepted = "application/vnd.schemaregistry.v1+json, application/json"
        request = ApiRequest(url, params or {}, {"Accept": accepted}, method, body)
        response = self._client.get(request, accepted=_REFUSALS)
        try:
            answer = json.loads(response.body)
            if response.status in _REFUSALS:
                raise RegistryError(int(answer["error_code"]), str(answer["message"]))
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(
                "what answers is not a schema registry",
                got=f"status {response.status}",
                do="check the URL",
                place=Place(url),
            ) from error
        return answer


def _deleted(registered: RegisteredSchema) -> RegisteredSchema:
    return RegisteredSchema(registered.subject, registered.version, registered.id, registered.schema, is_deleted=True)


def _body(schema: SchemaText) -> dict[str, Any]:
    references = [asdict(each) for each in schema.references]
    return {"schema": schema.text, "schemaType": schema.type, **({"references": references} if references else {})}


def _path(subject: str) -> str:
    return f"subjects/{_quoted(subject)}"


def _quoted(subject: str) -> str:
    return quote(subject, safe="")
