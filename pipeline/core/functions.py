"""Tables written as Python functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pipeline.core.definitions import Chart, Expectation, Layer, Table, checks, merge_of, names, streaming_of
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.fingerprint import of_function

_FRAMES = {
    "pyarrow.lib.Table": "arrow",
    "pa.Table": "arrow",
    "pyarrow.Table": "arrow",
    "polars.dataframe.frame.DataFrame": "polars",
    "pl.DataFrame": "polars",
    "polars.DataFrame": "polars",
    "pandas.core.frame.DataFrame": "pandas",
    "pandas.DataFrame": "pandas",
    "pd.DataFrame": "pandas",
    "ray.data.dataset.Dataset": "dataset",
    "ray.data.Dataset": "dataset",
    "Dataset": "dataset",
}


@dataclass(frozen=True)
class FunctionTransform:
    """A function of frames. The first parameter is passed block by block, the others whole.

    With `ray.data.Dataset` annotations it is called once, with whole datasets.
    """

    function: Callable[..., Any]
    inputs: tuple[str, ...]
    language: str

    @property
    def fingerprint(self) -> str:
        """A hash of the function's code and of what it calls in its own project."""
        return of_function(self.function)

    def __call__(self, *args: Any, **tables: Any) -> Any:
        """Call the function itself."""
        return self.function(*args, **tables)


def table(
    *,
    key: str | Sequence[str] | None = None,
    sequence_by: str | None = None,
    apply_as_deletes: str | None = None,
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    layer: Layer = "silver",
    chart: Chart | None = None,
    event_time: str | None = None,
    lateness: str | timedelta | None = None,
) -> Callable[[Callable[..., Any]], Table]:
    """Define a table as a function of its inputs, which are the parameters' names.

    The annotations say how it is called: `pyarrow.Table`, `polars.DataFrame` and `pandas.DataFrame` functions
    get the first input block by block and must work row by row on it (other inputs come whole);
    `ray.data.Dataset` functions get whole datasets and return one.

    With `sequence_by` the table is merged, as it is with `sql`; `event_time` and `lateness` are as there.

    Raises `DefinitionError` for a function without inputs or with another annotation, and for a merge without a key.
    """

    def decorate(function: Callable[..., Any]) -> Table:
        place = place_of(function)
        parameters = tuple(inspect.signature(function).parameters.values())
        if not parameters:
            raise DefinitionError(
                f"table {function.__name__!r} has no inputs",
                do="name a source or a table as its parameter",
                place=place,
            )
        language = {_language(function.__name__, parameter, place) for parameter in parameters}
        if len(language) > 1:
            raise DefinitionError(
                f"table {function.__name__!r} mixes kinds of tables",
                got=", ".join(sorted(language)),
                do="annotate all parameters alike",
                place=place,
            )
        return Table(
            place=place,
            name=function.__name__,
            description=inspect.getdoc(function) or "",
            layer=layer,
            key=names(key),
            partition_by=names(partition_by),
            expect=checks(expect, place),
            transform=FunctionTransform(function, tuple(p.name for p in parameters), language.pop()),
            chart=chart,
            merge=merge_of(names(key), sequence_by, apply_as_deletes, place),
            streaming=streaming_of(None, None, event_time, lateness, place),
        )

    return decorate


def place_of(function: Callable[..., Any]) -> Place:
    """Return the file and line where a function begins."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return Place("<unknown>") if code is None else Place(code.co_filename, code.co_firstlineno)


def _language(name: str, parameter: inspect.Parameter, place: Place) -> str:
    annotation = parameter.annotation
    words = str(annotation).strip("'\"")
    if annotation is inspect.Parameter.empty:
        words = ""
    elif isinstance(annotation, type):
        words = f"{annotation.__module__}.{annotation.__qualname__}"
    language = _FRAMES.get(words)
    if language is None:
        raise DefinitionError(
            f"table {name!r}: the parameter {parameter.name!r} does not say what it takes",
            got=words or "no annotation",
            do="annotate it with pa.Table, pl.DataFrame, pd.DataFrame or ray.data.Dataset",
            place=place,
        )
    return language
