"""Runs the operation of a document: checked against the caller's schema, planned as a whole, then read field by field."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from graphql import (
    DocumentNode,
    GraphQLError,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    execute_sync,
    parse,
    validate,
)
from graphql.execution.values import get_variable_values

from pipeline.core.errors import HeadwaterError
from serve.access.caller import Caller
from serve.backend import Backend
from serve.graphql.cost import require_affordable
from serve.graphql.errors import internal, of_graphql, of_problem
from serve.graphql.metrics import plan_metric
from serve.graphql.models import PredictionPlan, plan_predictions
from serve.graphql.requests import GraphqlRequest
from serve.graphql.scan import MOST_TOKENS
from serve.graphql.schemas import Api
from serve.graphql.selection import Selected, selected
from serve.graphql.snapshot import ReadSnapshot
from serve.graphql.tables import FieldPlan, TablePlanner
from serve.http_errors import ForbiddenError, HttpError, OverloadError
from serve.queries.select import Statement

_LOG = logging.getLogger("headwater.serve")
_MOST_ERRORS = 3
_MOST_PREDICTING = 8
_MOST_INTROSPECTED = 4
_INVALID = "GRAPHQL_VALIDATION_FAILED"
_INTROSPECTION = ("__schema", "__type")


class DocumentError(Exception):
    """The document cannot be run: `errors` in the form of GraphQL. Nothing was read."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        """Tell why."""
        super().__init__(errors[0]["message"])
        self.errors = errors


@dataclass(frozen=True)
class GraphqlOperation:
    """An operation that may be run."""

    api: Api
    digest: str
    """The SHA-256 of the document."""
    document: DocumentNode
    definition: OperationDefinitionNode
    variables: Any
    raw_variables: Mapping[str, Any]
    fields: tuple[Selected, ...]

    @property
    def is_subscription(self) -> bool:
        """Whether it returns events."""
        return self.definition.operation is OperationType.SUBSCRIPTION


@dataclass
class PlannedOperation:
    """The fields of an operation: the plan of each, its value if it needs none, or the error why there is none."""

    snapshot: ReadSnapshot
    plans: dict[str, FieldPlan | PredictionPlan] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    """The models that predict: with them, the response may be another one although the versions are the same."""


class OperationRunner:
    """Checks, plans and runs operations for callers. Thread-safe."""

    def __init__(self, backend: Backend, patience: timedelta, introspection_roles: tuple[str, ...]) -> None:
        """Run each operation for at most `patience`."""
        self._backend = backend
        self._patience = patience
        self._introspection_roles = introspection_roles
        self._lake = backend.project.settings.lake
        self._predicting = ThreadPoolExecutor(_MOST_PREDICTING, "predictions of GraphQL")

    def checked(self, api: Api, request: GraphqlRequest, caller: Caller) -> GraphqlOperation:
        """Return the operation of a request.

        Raises `HttpError` if it exceeds a bound, and `DocumentError` if it is not valid for the schema.
        """
        assert request.document is not None  # noqa: S101 - that of an identifier was looked up
        digest = hashlib.sha256(request.document.encode()).hexdigest()
        document = api.known(digest)
        if document is None:
            document = _parsed(request.document)
            require_affordable(api.schema, document, request.variables)
            _require_valid(api, document, may_introspect=self.may_introspect(caller))
            api.keep(digest, document, len(request.document))
        else:
            require_affordable(api.schema, document, request.variables)
        definition = _operation(document, request.operation)
        if api.schema.get_root_type(definition.operation) is None:
            kind = definition.operation.value
            raise DocumentError([{"message": f"the schema has no {kind}", "extensions": {"code": _INVALID}}])
        variables = get_variable_values(
            api.schema,
            definition.variable_definitions or (),
            dict(request.variables),
            max_errors=_MOST_ERRORS,
            hide_suggestions=True,
        )
        if isinstance(variables, list):
            raise DocumentError(of_graphql(variables, "BAD_USER_INPUT"))
        try:
            fields = selected(api.schema, document, definition, variables)
        except GraphQLError as error:
            raise DocumentError(of_graphql([error], "BAD_USER_INPUT")) from error
        if any(each.name in _INTROSPECTION for each in fields) and not self.may_introspect(caller):
            raise ForbiddenError("the schema may not be read by this caller", do="ask for it in another environment")
        return GraphqlOperation(api, digest, document, definition, variables, request.variables, fields)

    def may_introspect(self, caller: Caller) -> bool:
        """Return whether a caller may read its schema."""
        allowed = self._introspection_roles
        return "*" in allowed or any(fnmatchcase(role, pattern) for role in caller.roles for pattern in allowed)

    def plan(self, operation: GraphqlOperation, caller: Caller) -> PlannedOperation:
        """Return the plans of an operation's fields. It reads the lake's log, and no rows."""
        planned = PlannedOperation(ReadSnapshot(self._backend.reading, caller))
        tables = TablePlanner(operation.api.naming, planned.snapshot)
        for each in operation.fields:
            if each.name == "__typename":
                planned.values[each.key] = json.dumps(each.type)
                continue
            if each.name in _INTROSPECTION:
                continue
            root = operation.api.naming.roots.get(each.name)
            if root is None:  # the field that a schema without tables has
                planned.values[each.key] = "null"
                continue
            try:
                if root.kind == "predict":
                    planned.plans[each.key] = plan_predictions(self._backend.predictions, caller, root.name, each)
                    planned.models.append(root.name)
                elif root.kind == "metric":
                    metric = operation.api.naming.metrics[root.name]
                    planned.plans[each.key] = plan_metric(metric, planned.snapshot, each)
                else:
                    planned.plans[each.key] = tables.plan(root, each)
            except HeadwaterError as error:
                self._note(error, operation)
                planned.errors.append(of_problem(error, self._lake, each))
        return planned

    def run(self, operation: GraphqlOperation, planned: PlannedOperation) -> tuple[bytes, int]:
        """Return the response of an operation, and how many rows it has. A field that fails is null, and has an error."""
        end = time.monotonic() + self._patience.total_seconds()
        errors, number = list(planned.errors), 0
        values = {**planned.values, **self._introspected(operation)}
        for each in operation.fields:
            plan = planned.plans.get(each.key)
            if plan is None:
                continue
            try:
                values[each.key], rows = self._value(plan, end)
                number += rows
            except HeadwaterError as error:
                self._note(error, operation)
                errors.append(of_problem(error, self._lake, each))
            except Exception:  # noqa: BLE001 - other fields are returned all the same
                _LOG.exception("a field of document %s failed", operation.digest)
                errors.append(internal(each))
        data = ",".join(f"{json.dumps(each.key)}:{values.get(each.key, 'null')}" for each in operation.fields)
        head = f'"errors":{json.dumps(errors)},' if errors else ""
        planned.errors = errors
        return f'{{{head}"data":{{{data}}}}}'.encode("utf-8", "replace"), number

    def _value(self, plan: FieldPlan | PredictionPlan, end: float) -> tuple[str, int]:
        if isinstance(plan, PredictionPlan):
            try:
                return self._predicting.submit(plan.run).result(max(end - time.monotonic(), 0))
            except TimeoutError as error:
                raise self._too_long() from error
        return plan.run(lambda statement: self._rows(statement, end))

    def _rows(self, statement: Statement, end: float) -> Any:
        rest = end - time.monotonic()
        if rest <= 0:
            raise self._too_long()
        return self._backend.engine.rows(statement, rest)

    def _too_long(self) -> OverloadError:
        got = f"more than {self._patience.total_seconds():g} s"
        return OverloadError("the request exceeds a limit", got=got, do="ask for less at once")

    def _introspected(self, operation: GraphqlOperation) -> dict[str, str]:
        fields = [each for each in operation.fields if each.name in _INTROSPECTION]
        if not fields:
            return {}
        api = operation.api
        key = repr(
            (
                operation.digest,
                operation.definition.name and operation.definition.name.value,
                sorted(operation.raw_variables.items(), key=str),
            )
        )
        with api.introspecting:  # reading the schema of many tables takes seconds, and is done once
            known = api.introspected.get(key)
            if known is None:
                known = api.introspected[key] = _introspect(operation, fields)
                if len(api.introspected) > _MOST_INTROSPECTED:
                    api.introspected.popitem(last=False)
        return known

    def _note(self, error: HeadwaterError, operation: GraphqlOperation) -> None:
        if not isinstance(error, HttpError):
            _LOG.warning("document %s: %s", operation.digest, error)


def _introspect(operation: GraphqlOperation, fields: list[Selected]) -> dict[str, str]:
    nodes = tuple(node for each in fields for node in each.nodes)
    definition = operation.definition
    only = OperationDefinitionNode(
        operation=definition.operation,
        name=definition.name,
        variable_definitions=definition.variable_definitions,
        directives=definition.directives,
        selection_set=SelectionSetNode(selections=nodes),
    )
    others = [each for each in operation.document.definitions if not isinstance(each, OperationDefinitionNode)]
    document = DocumentNode(definitions=(only, *others))
    result = execute_sync(operation.api.schema, document, variable_values=dict(operation.raw_variables))
    if result.errors:
        raise DocumentError(of_graphql(result.errors, "BAD_USER_INPUT"))
    return {key: json.dumps(value) for key, value in (result.data or {}).items()}


def _parsed(text: str) -> DocumentNode:
    try:
        return parse(text, max_tokens=MOST_TOKENS)
    except GraphQLError as error:
        raise DocumentError(of_graphql([error], "GRAPHQL_PARSE_FAILED")) from error
    except RecursionError as error:
        raise HttpError("the document is too deep", do="ask for less at once") from error


def _require_valid(api: Api, document: DocumentNode, *, may_introspect: bool) -> None:
    errors = validate(api.schema, document, max_errors=_MOST_ERRORS, hide_suggestions=not may_introspect)
    if errors:
        raise DocumentError(of_graphql(errors, _INVALID))


def _operation(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    found = [
        each
        for each in document.definitions
        if isinstance(each, OperationDefinitionNode) and (name is None or (each.name and each.name.value == name))
    ]
    if len(found) == 1:
        return found[0]
    problem = (
        "the document has no operation of this name"
        if name
        else "the document has several operations"
        if found
        else "the document has no operation"
    )
    error = {
        "message": problem,
        "extensions": {"code": "OPERATION_RESOLUTION_FAILURE", "do": "name one in operationName"},
    }
    raise DocumentError([error])
