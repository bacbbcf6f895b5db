"""Translation of DuckDB errors during the computation of a table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from pipeline.batch.work import TaskSpec
from pipeline.core.errors import DefinitionError, StorageError
from pipeline.kernel.engine import exceeded_limit, first_line
from pipeline.kernel.option_expressions import BINDING_ERRORS

_VALUE_ERRORS = (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException)


@contextmanager
def translate_errors(work: TaskSpec) -> Iterator[None]:
    """Raise DuckDB errors as Headwater errors with the table and its place."""
    try:
        yield
    except DefinitionError as error:  # raised by the kernel, which does not know the table
        if error.place is not None and error.problem.startswith("table "):
            raise
        raise DefinitionError(
            f"table {work.table!r}: {error.problem}", got=error.got, do=error.do, place=error.place or work.place
        ) from error
    except BINDING_ERRORS as error:
        problem = f"table {work.table!r} is not valid for its inputs"
        raise DefinitionError(problem, got=first_line(error), place=work.place) from error
    except _VALUE_ERRORS as error:
        raise _value_error(work, error) from error
    except duckdb.OutOfMemoryException as error:
        problem, do = exceeded_limit(error)
        raise StorageError(f"table {work.table!r} {problem}", got=first_line(error), do=do, place=work.place) from error
    except (duckdb.IOException, duckdb.HTTPException) as error:
        raise StorageError(
            f"table {work.table!r} cannot read its inputs",
            got=first_line(error),
            do="run again; if a file of the lake is missing, recompute its table with --full",
            place=work.place,
        ) from error


def _value_error(work: TaskSpec, error: duckdb.Error) -> DefinitionError | StorageError:
    if "parquet" in str(error).lower():
        return StorageError(
            f"table {work.table!r} cannot read its inputs",
            got=first_line(error),
            do="a file of the lake is damaged: recompute its table with --full",
            place=work.place,
        )
    return DefinitionError(
        f"table {work.table!r} cannot convert a value",
        got=first_line(error),
        do="use try_cast, or quarantine such rows with an expectation upstream",
        place=work.place,
    )
