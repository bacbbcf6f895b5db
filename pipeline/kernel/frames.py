"""Conversion between Arrow tables and the frames of a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import USER_CODE_ERRORS, DefinitionError, HeadwaterError, Place
from pipeline.core.functions import FunctionTransform


def call(transform: FunctionTransform, tables: dict[str, pa.Table], place: Place) -> pa.Table:
    """Call a function with its inputs converted to its type of frame, and return an Arrow table.

    pandas frames have Arrow types (`pandas.ArrowDtype`), so that a block of nulls keeps its type.

    Raises `DefinitionError` if the function raises, with its error as the cause, or does not return a frame.
    """
    to_frame = _converter(transform.language)
    name = transform.function.__name__
    try:
        result = transform.function(**{key: to_frame(value) for key, value in tables.items()})
    except HeadwaterError:
        raise
    except USER_CODE_ERRORS as error:
        raise DefinitionError(
            f"table {name!r} raised {type(error).__name__}", got=str(error), place=raised_at(error, place)
        ) from error
    try:
        rows = _to_arrow(result, transform.language)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DefinitionError(
            f"table {name!r} returned a column that cannot be converted to Arrow",
            got=str(error),
            do="use a single type per column",
            place=place,
        ) from error
    if rows is None:
        raise DefinitionError(
            f"table {name!r} must return a table",
            got=type(result).__name__,
            do="return the type of its inputs",
            place=place,
        )
    return rows


def _to_arrow(result: Any, language: str) -> pa.Table | None:
    if isinstance(result, pa.Table):
        return result
    if language == "polars" and hasattr(result, "to_arrow") and hasattr(result, "columns"):
        return result.to_arrow()
    if language == "pandas" and hasattr(result, "columns"):
        return arrow_of_pandas(result)
    return None


def arrow_of_pandas(frame: Any) -> pa.Table:
    """Return a pandas data frame as an Arrow table, without its index; raise `pyarrow.ArrowException` for mixed types."""
    import pandas as pd  # noqa: PLC0415 - an extra

    # pandas warns of how Arrow reads times with a zone, so they are passed on without it
    zoned = [name for name, dtype in frame.dtypes.items() if isinstance(dtype, pd.DatetimeTZDtype)]
    naive = frame.assign(**{name: frame[name].dt.tz_convert(None) for name in zoned})
    table = pa.Table.from_pandas(naive, preserve_index=False).replace_schema_metadata()
    for number, name in enumerate(table.column_names):
        if name in zoned:
            table = table.set_column(number, name, pc.assume_timezone(table.column(number), "UTC"))
    return table


def _converter(language: str) -> Callable[[pa.Table], Any]:
    if language == "polars":
        import polars as pl  # noqa: PLC0415 - an extra

        return pl.from_arrow
    if language == "pandas":
        import pandas as pd  # noqa: PLC0415 - an extra

        return lambda table: table.to_pandas(types_mapper=pd.ArrowDtype)
    return lambda table: table


def raised_at(error: BaseException, place: Place) -> Place:
    """Return the deepest line of the traceback that is in the definition's file."""
    deepest = place
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == place.file:
            deepest = Place(place.file, trace.tb_lineno)
        trace = trace.tb_next
    return deepest
