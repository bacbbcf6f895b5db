"""Tables defined as Python functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Unpack, overload

from pipeline.core.definitions import (
    Chart,
    Expectation,
    Layer,
    Table,
    caller,
    checks,
    deadline_of,
    names,
    streaming_of,
)
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.fingerprint import of_function
from pipeline.core.merge_options import MergeOptions, merge_of
from pipeline.core.partition_fields import partitioning

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
    """A function of frames. It is called once per block of the first input; other inputs are passed completely.

    A function annotated with `ray.data.Dataset` is called once, with complete datasets.
    """

    function: Callable[..., Any]
    inputs: tuple[str, ...]
    language: str

    @property
    def fingerprint(self) -> str:
        """A hash of the function's code and of the project's code that it uses."""
        return of_function(self.function)

    def __call__(self, *args: Any, **tables: Any) -> Any:
        """Call the function itself."""
        return self.function(*args, **tables)


@overload
def table(function: Callable[..., Any], /) -> Table: ...


@overload
def table(
    *,
    key: str | Sequence[str] | None = None,
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    layer: Layer = "silver",
    chart: Chart | None = None,
    event_time: str | None = None,
    lateness: str | timedelta | None = None,
    deadline: str | timedelta | None = None,
    **merging: Unpack[MergeOptions],
) -> Callable[[Callable[..., Any]], Table]: ...


def table(
    function: Callable[..., Any] | None = None,
    /,
    *,
    key: str | Sequence[str] | None = None,
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    layer: Layer = "silver",
    chart: Chart | None = None,
    event_time: str | None = None,
    lateness: str | timedelta | None = None,
    deadline: str | timedelta | None = None,
    **merging: Unpack[MergeOptions],
) -> Table | Callable[[Callable[..., Any]], Table]:
    """Define a table as a function, by `@table` or `@table(…)`. Its parameters are named after its inputs.

    The annotations determine how the function is called. `pyarrow.Table`, `polars.DataFrame` and `pandas.DataFrame`
    functions are called once per block of the first input, and must be row-wise in it; other inputs are passed
    completely. `ray.data.Dataset` functions are called once with complete datasets, and return a dataset.

    The options of `MergeOptions` merge the table; they, `event_time`, `lateness` and `deadline` have the same meaning as in `sql`.

    Raises `DefinitionError` for a function without inputs, for other annotations, and for a merge without a key.
    """

    def decorate(function: Callable[..., Any]) -> Table:
        place = place_of_decorated(function, "table")
        parameters = tuple(inspect.signature(function).parameters.values())
        if not parameters:
            raise DefinitionError(
                f"table {function.__name__!r} has no inputs",
                do="name a parameter after a source or a table",
                place=place,
            )
        language = {_language(function.__name__, parameter, place) for parameter in parameters}
        if len(language) > 1:
            raise DefinitionError(
                f"table {function.__name__!r} mixes types of frames",
                got=", ".join(sorted(language)),
                do="annotate all parameters with the same type",
                place=place,
            )
        return Table(
            place=place,
            name=function.__name__,
            description=inspect.getdoc(function) or "",
            layer=layer,
            key=names(key),
            partition_by=partitioning(partition_by, place),
            expect=checks(expect, place),
            transform=FunctionTransform(function, tuple(p.name for p in parameters), language.pop()),
            chart=chart,
            merge=merge_of(names(key), merging, place),
            streaming=streaming_of(None, None, event_time, lateness, place),
            deadline=deadline_of(deadline, place),
        )

    return decorate if function is None else decorate(function)


def place_of(function: Callable[..., Any]) -> Place:
    """Return the file and line where a function is defined."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return Place("<unknown>") if code is None else Place(code.co_filename, code.co_firstlineno)


def place_of_decorated(function: Callable[..., Any], decorator: str) -> Place:
    """Return the file and line of a function; raise `DefinitionError` if a decorator is called with something else."""
    if not inspect.isroutine(function):
        raise DefinitionError(
            f"{decorator} is a decorator for functions",
            got=repr(function),
            do=f"write @{decorator} above a function; a query is defined by sql(…)",
            place=caller(),
        )
    return place_of(function)


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
            f"table {name!r}: parameter {parameter.name!r} has no supported type annotation",
            got=words or "no annotation",
            do="annotate it with pa.Table, pl.DataFrame, pd.DataFrame or ray.data.Dataset",
            place=place,
        )
    return language
