"""Training a registered version again, from the rows that it was trained from: the same definition gives the same model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ml.models.definition import Model
from ml.models.registry.registry import PREDICTIONS, VALUES
from ml.models.registry.versions import ModelVersion
from ml.models.training import evaluated, fit, parts_of, training_set_of
from pipeline.core.errors import RequestError, StorageError
from pipeline.lake import Version
from pipeline.lake.holds import holds
from pipeline.project.holds import artifact_hold
from pipeline.project.workspace import Workspace
from pipeline.runner.build_context import RunBuildContext


@dataclass(frozen=True)
class Reproduction:
    """The metrics of a registered version, and those of the same training now."""

    registered: Mapping[str, float]
    again: Mapping[str, float]
    same_predictions: bool

    @property
    def is_equal(self) -> bool:
        """Whether all metrics and all predictions are equal."""
        return self.same_predictions and all(self.registered.get(name) == value for name, value in self.again.items())


def reproduce(workspace: Workspace, model: Model, version: ModelVersion) -> Reproduction:
    """Train a version again, without logging anything.

    Raises `RequestError` if the definition has changed since, or the version was not trained by Headwater, and `StorageError` if
    the rows are no longer there.
    """
    origin = version.origin
    if origin is None:
        problem = f"version {version.number} of model {model.name!r} was not trained by Headwater"
        raise RequestError(problem, do="choose another version")
    if origin.fingerprint != model.fingerprint:
        raise RequestError(
            f"the definition of model {model.name!r} has changed since version {version.number} was trained",
            got=f"fingerprint {model.fingerprint} instead of {origin.fingerprint}",
            do=f"check out the code of run {version.tags.get('headwater.run', 'unknown')}, and try again",
            place=model.place,
        )
    examples = training_set_of(model, RunBuildContext(workspace, model, ""))
    rows = _version(workspace, model, version)
    parts = parts_of(model, examples, rows.scan(), workspace.lake.storage.filesystem())
    found = evaluated(model, fit(model, parts, json.loads(version.tags.get(VALUES, "{}"))), parts)
    return Reproduction(version.metrics, found.metrics, found.predictions == version.tags.get(PREDICTIONS))


def _version(workspace: Workspace, model: Model, version: ModelVersion) -> Version:
    """Return the version of the training set that a version of the model holds."""
    table, wanted = workspace.table(model.training_set), artifact_hold(model.name, str(version.number))
    origin = version.origin
    expected = None if origin is None else origin.inputs.get(model.training_set)
    numbers = [hold.version for hold in holds(table.storage) if hold.id == wanted]
    for number in numbers:
        found = table.version(number)
        if found is not None and found.manifest_id == expected:
            return found
    problem = f"the rows that version {version.number} of model {model.name!r} was trained from are not there any more"
    raise StorageError(problem, do=f"train it anew: headwater run --select {model.name} --full")
