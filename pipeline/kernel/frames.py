"""Arrow tables as the frames that a function is written on, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.core.errors import DefinitionError, Place
from pipeline.core.functions import FunctionTransform


def call(transform: FunctionTransform, tables: dict[str, pa.Table], place: Place) -> pa.Table:
    """Call a function with its inputs as its own kind of frame, and return an Arrow table.

    Raises `DefinitionError` when the function raises or returns something else than a frame; its own error is
    the cause.
    """
    to_frame, language = _converter(transform.language), transform.language
    name = transform.function.__name__
    try:
        made = transform.function(**{key: to_frame(value) for key, value in tables.items()})
    except Exception as error:  # the user's own code
        raise DefinitionError(
            f"table {name!r} raised {type(error).__name__}", got=str(error), place=_raised_at(error, place)
        ) from error
    if isinstance(made, pa.Table):
        return made
    if language == "polars" and hasattr(made, "to_arrow"):
        return made.to_arrow()
    if language == "pandas" and hasattr(made, "columns"):
        return pa.Table.from_pandas(made, preserve_index=False)
    raise DefinitionError(
        f"table {name!r} must return a table", got=type(made).__name__, do="return what it was given", place=place
    )


def _converter(language: str) -> Callable[[pa.Table], Any]:
    if language == "polars":
        import polars as pl  # noqa: PLC0415 - an extra

        return pl.from_arrow
    if language == "pandas":
        return lambda table: table.to_pandas()
    return lambda table: table


def _raised_at(error: BaseException, place: Place) -> Place:
    """Return the deepest line of the definition's own file in the traceback."""
    found = place
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == place.file:
            found = Place(place.file, trace.tb_lineno)
        trace = trace.tb_next
    return found
