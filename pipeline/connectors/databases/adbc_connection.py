"""Queries over ADBC, whose errors become ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.core.errors import SourceError

Translate = Callable[[Exception], SourceError]


@dataclass(frozen=True)
class AdbcConnection:
    """A connection of ADBC's DB-API; `translate` makes an error of the driver one of ours."""

    connection: Any
    translate: Translate

    def table(self, query: str, parameters: Sequence[object] = ()) -> pa.Table:
        """Return the rows of a query; raise `SourceError` if the database refuses it."""
        with driver_errors(self.translate), self.connection.cursor() as cursor:
            cursor.execute(query, tuple(parameters) or None)
            return cursor.fetch_arrow_table()

    def execute(self, statement: str) -> None:
        """Run a statement without a result."""
        with driver_errors(self.translate), self.connection.cursor() as cursor:
            cursor.execute(statement)

    def close(self) -> None:
        """End the transaction and the connection; a server that is gone has ended both."""
        with suppress(Exception):
            self.connection.close()


@contextmanager
def driver_errors(translate: Translate) -> Iterator[None]:
    """Translate the errors of ADBC and of Arrow."""
    from adbc_driver_manager import Error  # noqa: PLC0415 - optional dependency

    try:
        yield
    except (Error, OSError, pa.ArrowException) as error:
        raise translate(error) from error
