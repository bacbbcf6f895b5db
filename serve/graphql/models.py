"""The fields of models: predictions for rows, for callers with the scope `predict`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve.access.authorization import require_scope
from serve.access.caller import Caller
from serve.graphql.selection import Selected
from serve.http_errors import RowsError
from serve.predictions.models import PredictionRequest
from serve.predictions.service import PredictionService

_NAMES: Mapping[str, str] = {"requestId": "request_id"}


@dataclass(frozen=True)
class PredictionPlan:
    """The predictions of a model for some rows as the value of a field."""

    predictions: PredictionService
    model: str
    field: Selected

    def run(self) -> tuple[str, int]:
        """Return the value as JSON, and the number of rows. Raises `HeadwaterError` as a prediction over REST does."""
        rows = self.field.arguments["rows"]
        wrong = next((number for number, row in enumerate(rows) if not isinstance(row, dict)), None)
        if wrong is not None:
            raise RowsError(f"row {wrong} is not an object", do="send rows: [{feature: 1}]")
        answer = self.predictions.answer(self.model, PredictionRequest(list(rows)))
        return json.dumps(_object(answer, self.field)), len(rows)


def plan_predictions(predictions: PredictionService, caller: Caller, model: str, field: Selected) -> PredictionPlan:
    """Return the plan of a field; raise as `require_scope` without the scope."""
    require_scope(caller, "predict", model)
    return PredictionPlan(predictions, model, field)


def _object(value: Mapping[str, Any], field: Selected) -> dict[str, Any]:
    return {each.key: _member(value, each, field) for each in field.fields}


def _member(value: Mapping[str, Any], each: Selected, field: Selected) -> Any:
    if each.name == "__typename":
        return field.type
    found = value.get(_NAMES.get(each.name, each.name))
    if isinstance(found, list) and each.fields:
        return [_object(one, each) for one in found]
    return found
