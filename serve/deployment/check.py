"""Checks a running endpoint: its health, a table over REST, GraphQL and OData, and a prediction."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from pipeline.core.definitions import Artifact, StoredDefinition
from pipeline.governance.api_keys import SCOPES, ApiKeys
from pipeline.project.project import Project
from pipeline.project.workspace import Workspace

_TIMEOUT_S = 30
_SHORT = 300
_SERVER_ERROR = 500
_KEY_LASTS = timedelta(minutes=10)


@dataclass(frozen=True)
class CallResult:
    """The result of one call. `status` is 0 without a response; `body` is truncated."""

    method: str
    path: str
    status: int
    ms: float
    body: str

    @property
    def is_good(self) -> bool:
        """Whether the call succeeded."""
        return self.status == 200  # noqa: PLR2004 - the HTTP status OK


def check(url: str, project: Project) -> list[CallResult]:
    """Call /health, a gold mart over REST, GraphQL and OData, and a model, if the project has them. Error responses do not raise.

    The model predicts two real rows of its training set, which are read through the endpoint. The calls have a key of their own,
    which is revoked at the end.
    """
    catalog = Workspace(project).catalog
    keys = ApiKeys(catalog, project.settings.env)
    text, key = keys.create("headwater serve --check", scopes=SCOPES, expires_in=_KEY_LASTS)
    try:
        return _answers(_Client(url, text), project)
    finally:
        keys.revoke(key.id)
        catalog.close()


def _answers(client: _Client, project: Project) -> list[CallResult]:
    answers = [client.call("/health")[0]]
    gold = [d for d in project.graph.all_of(StoredDefinition) if d.layer == "gold"]
    best = next((d for d in gold if d.kind == "mart"), gold[0] if gold else None)
    if best is not None:
        answers.append(client.call(f"/v1/tables/{best.name}?limit=3")[0])
        if best.name.isascii() and best.name.isidentifier():  # others have another name in these protocols
            answers += [] if project.settings.serve.graphql_trusted else [_graphql(client, best.name)]
            answers.append(client.call(f"/v1/odata/{best.name}?$top=3")[0])
    models = (d for d in project.graph.all_of(Artifact) if d.kind == "model")
    model = next(models, None)
    if model is not None:
        answers.extend(_predict(client, model))
    return answers


def _graphql(client: _Client, table: str) -> CallResult:
    """Return the response to a query of a table. An error in it, which has the status 200, counts as one of the server."""
    query = f"{{ {table}(first: 3) {{ nodes {{ __typename }} pageInfo {{ hasNextPage }} }} }}"
    answer, document = client.call("/v1/graphql", {"query": query})
    is_wrong = answer.is_good and (not isinstance(document, dict) or "errors" in document)
    return replace(answer, status=_SERVER_ERROR) if is_wrong else answer


def _predict(client: _Client, model: Artifact) -> list[CallResult]:
    """Return the response of a model to rows of its training set, or the response that failed before it."""
    path = f"/v1/models/{model.name}/predict"
    described, document = client.call("/openapi.json")
    try:
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        features: list[str] = body["properties"]["rows"]["items"]["required"]
    except (KeyError, TypeError):
        return [described]
    if not features:  # no champion: return the endpoint's own error
        return [client.call(path, {"rows": []})[0]]
    read, page = client.call(f"/v1/tables/{model.inputs[0]}?limit=2&select={','.join(features)}")
    if not read.is_good:
        return [read]
    return [client.call(path, {"rows": page["rows"]})[0]]


class _Client:
    def __init__(self, url: str, key: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}

    def call(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[CallResult, Any]:
        """Return the result and the full body parsed as JSON, or None if it is not JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the given endpoint
            self._url + path, data, self._headers, method="GET" if data is None else "POST"
        )
        begun = time.perf_counter()
        status, text = _answered(lambda: urllib.request.urlopen(request, timeout=_TIMEOUT_S))  # noqa: S310 - see above
        answer = CallResult(request.get_method(), path, status, (time.perf_counter() - begun) * 1000, text[:_SHORT])
        try:
            return answer, json.loads(text)
        except ValueError:
            return answer, None


def _answered(send: Callable[[], Any]) -> tuple[int, str]:
    try:
        with send() as response:
            return response.status, response.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(getattr(error, "reason", None) or error)
