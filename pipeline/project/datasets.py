"""A table of the lake as a Ray dataset, for training and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import duckdb

from pipeline.batch.ray_cluster import join
from pipeline.core.as_of import AsOf
from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import DefinitionError, Place, RequestError, did_you_mean
from pipeline.core.schema import Schema
from pipeline.kernel.engine import connect, first_line
from pipeline.kernel.scan import Scan
from pipeline.kernel.syntax.row_expressions import require_row_expression
from pipeline.lake import LakeTable, Version, files_for
from pipeline.project.workspace import Workspace

if TYPE_CHECKING:
    import ray.data


def dataset_of(
    workspace: Workspace,
    name: str,
    version: int | AsOf | None,
    columns: Sequence[str] | None,
    where: str | None,
) -> ray.data.Dataset:
    """Return the rows of a table as a dataset; see `Project.dataset`."""
    from pipeline.batch.scan_datasource import TableRead  # noqa: PLC0415 - importing Ray takes seconds

    definition = _definition(workspace, name)
    _require_types(name, version, columns, where, definition.place)
    table = workspace.table(name)
    if isinstance(version, AsOf) or version is None:
        pinned = workspace.require(name, as_of=workspace.as_of(version))
    else:
        pinned = _version(table, version, definition.place)
    for column in columns or ():
        if column not in pinned.schema.names:
            problem, known = f"table {name!r} has no column {column!r}", did_you_mean(column, pinned.schema.names)
            raise RequestError(problem, do=known, place=definition.place)
    if where is not None:
        _require_condition(name, pinned.schema, where, definition.place)
    join()
    filesystem = workspace.lake.storage.filesystem()
    read = TableRead(name, pinned.scan(), where, filesystem, partial(files_for, table, pinned))
    return read.dataset(columns)


def _require_types(name: str, version: object, columns: object, where: str | None, place: Place) -> None:
    """Raise `RequestError` for arguments that would be misunderstood."""
    problem = f"table {name!r} cannot be read as a dataset"
    if isinstance(version, bool) or not isinstance(version, int | AsOf | None):
        raise RequestError(problem, got=f"version={version!r}", do="pass the number of a version", place=place)
    if isinstance(columns, str):
        raise RequestError(problem, got=f"columns={columns!r}", do=f"pass a list: columns=[{columns!r}]", place=place)
    if where is not None and not where.strip():
        raise RequestError(problem, got="an empty where=", do="leave it out, or write a SQL condition", place=place)


def _definition(workspace: Workspace, name: str) -> StoredDefinition:
    try:
        return workspace.stored(name)
    except RequestError as error:
        place = Place(str(workspace.settings.definitions))
        raise RequestError(error.problem, got=error.got, do=error.do, place=place) from error


def _version(table: LakeTable, number: int, place: Place) -> Version:
    """Return a version of a table; raise `RequestError` if it does not exist yet."""
    newest = table.number()
    if newest is None or not 0 <= number <= newest:
        problem = f"table {table.name!r} has no version {number}"
        known = "it has none yet: run the project first" if newest is None else f"the newest is {newest}"
        raise RequestError(problem, do=known, place=place)
    version = table.version(number, lenient=True)
    if version is None:
        raise RequestError(f"table {table.name!r} has no version {number}", do=f"the newest is {newest}", place=place)
    return version


def _require_condition(name: str, schema: Schema, where: str, place: Place) -> None:
    """Raise `RequestError` unless a text is a SQL condition on the columns."""
    problem = f"table {name!r} cannot be filtered by {where!r}"
    try:
        require_row_expression("where=", where, place)
        with connect() as con:
            con.execute(f"describe select * from ({Scan(schema).query()}) as _rows where ({where}\n)")
    except (DefinitionError, duckdb.Error) as error:
        got = error.problem if isinstance(error, DefinitionError) else first_line(error)
        raise RequestError(problem, got=got, do="write a SQL condition on its columns", place=place) from error
