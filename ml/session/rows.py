"""The rows of a table or of a query, in any form that a notebook uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import duckdb
import pyarrow as pa

from ml.session.display import rows_html, rows_text
from ml.session.plots import Plot
from pipeline.core.definitions import Chart
from pipeline.core.errors import RequestError, did_you_mean, quantity
from pipeline.core.extras import imports_of
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import quoted
from pipeline.project.workspace import Workspace
from pipeline.report.charts import rendered
from pipeline.report.points import points_of, points_query

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import ray.data

SHOWN = 20
"""The number of rows that a notebook shows."""
GIVEN = "rows"
"""The name of rows that are in memory, in SQL."""
FROM_GIVEN = f"from {GIVEN}"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


class Rows:
    """The result of one SELECT over versions of tables. It is computed when it is needed, and always the same.

    Libraries that read Arrow's stream interface take it as it is: `polars.DataFrame(rows)`, `pyarrow.table(rows)`.
    """

    def __init__(
        self,
        workspace: Workspace,
        connection: Callable[[], duckdb.DuckDBPyConnection],
        text: str,
        inputs: Mapping[str, Scan | pa.Table],
        table: tuple[str, int] | None = None,
    ) -> None:
        """Prepare the rows of the SELECT `text` over its inputs; `table` is the name and version of a table's rows.

        Raises `RequestError` if the SELECT is invalid.
        """
        self._workspace = workspace
        self._connection = connection
        self._text = text.strip().rstrip(";")
        self._inputs = inputs
        self._table = table
        self._count: int | None = None
        self._rows: pa.Table | None = inputs.get(GIVEN) if text == FROM_GIVEN else None
        self._schema: pa.Schema = (
            self._select(f"from ({self._text}\n) limit 0").schema if self._rows is None else self._rows.schema
        )

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self._schema.names)

    def arrow(self) -> pa.Table:
        """Return the rows as an Arrow table; raise `RequestError` if they exceed the limits of the settings."""
        if self._rows is None:
            self._rows = self._select(self._text)
        return self._rows

    def pandas(self) -> pd.DataFrame:
        """Return the rows as a pandas data frame; dates are times."""
        with imports_of("ml", "pandas()"):
            return self.arrow().to_pandas(date_as_object=False)

    def polars(self) -> pl.DataFrame:
        """Return the rows as a Polars data frame."""
        with imports_of("polars", "polars()"):
            import polars as pl  # noqa: PLC0415 - an extra

        return pl.DataFrame(self.arrow())

    def relation(self) -> duckdb.DuckDBPyRelation:
        """Return the rows as a relation of DuckDB, which reads the files of the lake when it is executed.

        All relations of a session have one connection, so that they can be joined, until the session is closed.
        """
        con = self._connection()
        if self._rows is not None:
            return con.from_arrow(self._rows)
        scans = [f"{quoted(name)} as ({scan.query()})" for name, scan in self._inputs.items() if isinstance(scan, Scan)]
        return con.sql(f"with {', '.join(scans)} from ({self._text}\n)" if scans else self._text)

    def dataset(self, *, columns: Sequence[str] | None = None, where: str | None = None) -> ray.data.Dataset:
        """Return the rows of a table as a Ray dataset, limited as in `Project.dataset`; raise `RequestError` for other rows."""
        if self._table is None:
            problem = "only the rows of a table are a dataset"
            raise RequestError(problem, got="the result of a query", do="use table(name).dataset(columns=…, where=…)")
        name, version = self._table
        return self._workspace.project.dataset(name, version=version, columns=columns, where=where)

    def plot(
        self, x: str, y: str, *, by: str | None = None, kind: Literal["line", "bar"] = "line", title: str | None = None
    ) -> Plot:
        """Return a chart of `y` over `x`, with a line or a color for each value of `by`.

        Raises `RequestError` for an unknown column or kind, and if `y` has values, and none of them is a number.
        """
        for column in (x, y, *([] if by is None else [by])):
            if column not in self.columns:
                raise RequestError(f"these rows have no column {column!r}", do=did_you_mean(column, self.columns))
        if kind not in {"line", "bar"}:
            raise RequestError("this is no kind of chart", got=repr(kind), do="use 'line' or 'bar'")
        chart = Chart(kind, x, y, by, title or f"{y} by {x}".replace("_", " ").capitalize())
        points = self._select(points_query(chart, self._text))
        fetched = [tuple(row.values()) for row in points.to_pylist()]
        kind_of_y = self._schema.field(y).type
        if not fetched and not _is_number(kind_of_y) and self._has(y):
            raise RequestError(f"the column {y!r} has no numbers to draw", got=str(kind_of_y), do="choose another y")
        return Plot(rendered("rows", chart, points_of(chart, fetched, len(self))))

    def _has(self, column: str) -> bool:
        """Return whether a column has a value."""
        found = self._select(f"select 1 from ({self._text}\n) where {quoted(column)} is not null limit 1")
        return len(found) > 0

    def __len__(self) -> int:
        """Return the number of rows."""
        if self._count is None:
            if self._rows is not None:
                self._count = self._rows.num_rows
            else:
                self._count = self._select(f"select count(*) as n from ({self._text}\n)")["n"][0].as_py()
        return self._count

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows through Arrow's stream interface."""
        return self.arrow().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        """Return the first rows as a text table."""
        return rows_text(*self._first())

    def _repr_html_(self) -> str:
        first, more = self._first()
        return rows_html(first, more)

    def _first(self) -> tuple[pa.Table, str]:
        """Return the first rows, and how many there are, as far as it is known without computing all of them."""
        if self._rows is None:
            first = self._select(f"from ({self._text}\n) limit {SHOWN + 1}")
            if first.num_rows <= SHOWN:
                self._rows = first
        else:
            first = self._rows.slice(0, SHOWN + 1)
        if first.num_rows <= SHOWN:
            return first, quantity(first.num_rows, "row")
        known = self._rows is not None or self._count is not None or self._table is not None
        of = f" of {len(self):,}" if known else ""
        return first.slice(0, SHOWN), f"the first {SHOWN}{of} rows" if of else f"the first {SHOWN} rows; there are more"

    def _select(self, text: str) -> pa.Table:
        return self._workspace.select(text, self._inputs)
