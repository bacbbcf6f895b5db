"""The status of tables and models, for /v1/tables and /health."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.core.errors import StorageError
from pipeline.core.schema import Schema
from pipeline.core.settings import Settings
from serve.access.authorization import Grant
from serve.access.caller import Caller
from serve.features.lookup import FeatureLookup
from serve.http_errors import DeniedError
from serve.predictions.models import ServedModels
from serve.queries.formats import described_columns
from serve.reading import Reading
from serve.tables import Tables


def describe(reading: Reading, caller: Caller, grant: Grant) -> dict[str, Any]:
    """Return a table's name, description, and current version, rows and columns, as a caller sees them.

    The number of rows is only told to a caller that sees all of them. Raises `StorageError` if the table cannot be read.
    """
    definition = grant.definition
    version = reading.tables.newest(definition.name)
    relation = None if version is None else reading.authorizer.columns(grant, caller, version)
    is_partial = grant.policy is not None and grant.policy.rows is not None
    columns = () if relation is None else relation.schema.columns
    return {
        "name": definition.name,
        "kind": definition.kind,
        "layer": definition.layer,
        "description": definition.description,
        "key": [name for name in definition.key if relation is None or name in relation.schema.names],
        "version": None if version is None else version.number,
        "rows": None if version is None or is_partial else version.rows,
        "columns": described_columns(columns),
    }


def visible_schema(reading: Reading, caller: Caller, grant: Grant) -> Schema | None:
    """Return the columns of a table that a caller sees, or `None` if it cannot be read or is not computed yet."""
    try:
        version = reading.tables.newest(grant.definition.name)
        return None if version is None else reading.authorizer.columns(grant, caller, version).schema
    except (StorageError, DeniedError):
        return None


def health(settings: Settings, tables: Tables, models: ServedModels, lookup: FeatureLookup) -> dict[str, Any]:
    """Return the versions of tables and models, and the reasons why some cannot be read.

    `status` is `ok`, `degraded` if the model store or the online store cannot be used, or `down` if the lake cannot be read.
    """
    reasons: list[str] = []
    if "://" not in settings.lake and not Path(settings.lake).is_dir():
        reasons.append("the lake does not exist: run the project")
    versions: dict[str, int | None] = {}
    for definition in tables.definitions:
        try:
            newest = tables.newest(definition.name)
            versions[definition.name] = None if newest is None else newest.number
        except StorageError as error:
            versions[definition.name] = None
            reasons.append(_reason(error, settings))
    is_down = bool(reasons)
    champions: dict[str, str | None] = {}
    for artifact in models.definitions:
        try:
            champion = models.predictor_or_none(artifact.name)
            champions[artifact.name] = None if champion is None else champion.version
        except StorageError as error:
            champions[artifact.name] = None
            reasons.append(_reason(error, settings))
    try:
        lookup.require()
    except StorageError as error:
        reasons.append(_reason(error, settings))
    return {
        "status": "down" if is_down else "degraded" if reasons else "ok",
        "project": settings.name,
        "env": settings.env,
        "tables": versions,
        "models": champions,
        "reasons": reasons,
    }


def _reason(error: StorageError, settings: Settings) -> str:
    text = error.problem if error.got is None else f"{error.problem}: {error.got}"
    return text.replace(settings.lake, "the lake")
