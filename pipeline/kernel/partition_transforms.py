"""The SQL of partition transforms, and the folders of files that are partitioned by them.

A transform is a function of one column that never changes: files that were written years ago have been written by the same.
Timestamps with a time zone are transformed in UTC. All but `bucket` preserve the order of values, so the bounds of the
column also bound the transform. Null is transformed to null.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import quote

from pipeline.core.errors import DefinitionError
from pipeline.core.partition_fields import TIMES, PartitionField, fields_of, plain_columns
from pipeline.kernel.sql_text import quoted, unused_name

FOLDER = "by"
"""The folder of the files that are partitioned by a transform."""
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
_DATED = ("DATE", "TIMESTAMP", "TIMESTAMPTZ")
_TYPES: Mapping[str, tuple[str, ...]] = {
    "year": _DATED,
    "month": _DATED,
    "day": _DATED,
    "hour": ("TIMESTAMP", "TIMESTAMPTZ"),
    "bucket": (*_INTEGERS, "VARCHAR", "DATE"),
    "truncate": (*_INTEGERS, "VARCHAR"),
}
_IN_FOLDER = {"year": "%Y", "month": "%Y-%m", "day": "%Y-%m-%d", "hour": "%Y-%m-%d-%H"}
_MASK = (1 << 32) - 1
_BUCKET = re.compile(r"(.+)_bucket_(\d+)_*=(\d+)")


def transformed(field: PartitionField, value: str, kind: str) -> str:
    """Return SQL for the transform of a value, given as SQL, of a column's type.

    `year`, `month` and `day` are the first date of each, `hour` its first moment, in UTC.
    Raises `DefinitionError` if the type has no such transform.
    """
    require_type(field, kind)
    if field.transform in TIMES:
        moment = f"({value})::TIMESTAMPTZ at time zone 'UTC'" if kind == "TIMESTAMPTZ" else f"({value})::{kind}"
        return f"date_trunc('{field.transform}', {moment})::{transformed_type(field, kind)}"
    if field.transform == "bucket":
        return f"({_hashed(value, kind)} % {field.size})::INTEGER"
    if field.transform == "truncate" and kind == "VARCHAR":
        return f"left({value}, {field.size})"
    if field.transform == "truncate":
        wide = f"({value})::HUGEINT"
        return f"({wide} - (({wide} % {field.size}) + {field.size}) % {field.size})"
    return value


def _hashed(value: str, kind: str) -> str:
    """Return SQL for a hash of a value that never changes, as DuckDB's own may: MD5 of its text, or a mix of an integer's halves.

    The mix multiplies each half, and then the folded products, by an odd constant, and folds again; it is 85 times as fast.
    """
    if kind not in _INTEGERS:
        return f"md5_number_lower(({value})::{kind}::VARCHAR)"
    low, high = f"(({value})::BIGINT & {_MASK})", f"((({value})::BIGINT // {_MASK + 1}) & {_MASK})"
    mixed = f"xor({low}::UBIGINT * 2654435769, {high}::UBIGINT * 2246822519)"
    folded = f"((xor({mixed}, {mixed} >> 32) & {_MASK}) * 668265263)"
    return f"(xor({folded}, {folded} >> 32) & {_MASK})"


def transformed_type(field: PartitionField, kind: str) -> str:
    """Return the type of a transform's values."""
    if field.transform in TIMES:
        return "TIMESTAMP" if field.transform == "hour" else "DATE"
    if field.transform == "bucket":
        return "INTEGER"
    return "HUGEINT" if field.transform and kind != "VARCHAR" else kind


def is_transformable(field: PartitionField, kind: str) -> bool:
    """Return whether a column of a type can be transformed."""
    return kind in _TYPES.get(field.transform, (kind,))


def require_type(field: PartitionField, kind: str) -> None:
    """Raise `DefinitionError` if a column's type cannot be transformed."""
    if not is_transformable(field, kind):
        types = _TYPES[field.transform]
        raise DefinitionError(
            f"the rows cannot be partitioned by {field}",
            got=f"column {field.column!r} of {kind}",
            do=f"{field.transform} takes a column of {', '.join(types)}",
        )


def folder_columns(fields: Sequence[PartitionField], types: Mapping[str, str]) -> dict[str, str]:
    """Return the names of the folders of hidden partitions, each with the SQL of its text; columns are named by `types`.

    The names differ from those of all columns, because both are columns of the rows that are written.
    """
    by_name: dict[str, str] = {}
    for field in fields:
        name = next((each for each in types if each.lower() == field.column.lower()), None)
        if name is None:
            problem = f"the rows have no column {field.column!r} to partition by"
            raise DefinitionError(problem, got=", ".join(types), do=f"correct {field} in partition_by=")
        text = transformed(field, quoted(name), types[name])
        if field.transform in TIMES:
            text = f"strftime({text}, '{_IN_FOLDER[field.transform]}')"
        by_name[unused_name(_folder(field, name), (*types, *by_name))] = text
    return by_name


def _folder(field: PartitionField, column: str) -> str:
    size = f"_{field.size}" if field.size else ""
    return f"{column}_{field.transform or 'value'}{size}"


def folders_of(partition_by: Sequence[str], columns: Collection[str]) -> tuple[str, ...]:
    """Return the names in the path of a file that is written now, as `folders_in` returns them."""
    fields = fields_of(partition_by)
    if not any(field.transform for field in fields):
        return tuple(quote(name, safe="") for name in plain_columns(partition_by))
    names: list[str] = []
    for field in fields:
        column = next((each for each in columns if each.lower() == field.column.lower()), field.column)
        names.append(unused_name(_folder(field, column), (*columns, *names)))
    return (FOLDER, *(quote(name, safe="") for name in names))


def folders_in(path: str) -> tuple[str, ...]:
    """Return the names of the folders in a file's path below its table, without their values."""
    return tuple(part.partition("=")[0] for part in path.split("/")[:-1])


def buckets_in(path: str, column: str) -> dict[int, int]:
    """Return the bucket of a column in which all rows of a file are, by the number of buckets; from its path below its table."""
    if not path.startswith(f"{FOLDER}/"):
        return {}
    parts = (_BUCKET.fullmatch(part) for part in path.split("/")[1:-1])
    name = quote(column, safe="")
    return {int(part[2]): int(part[3]) for part in parts if part is not None and part[1] == name}
