"""The rows of a training set where they are stored: conditions, counts and samples by DuckDB, and shares for workers.

No process holds all of these rows. A worker reads its share in batches into a file of numbers, which libraries map into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ml.features import TrainingSet
from ml.models.evaluation import Evaluation
from ml.models.holdout import SHARE, Holdout, Purpose, draws
from ml.models.rows import (
    Kind,
    LabelledRows,
    Part,
    group_texts,
    labelled_rows,
    require_both_labels,
)
from ml.models.tasks import Multiclass
from pipeline.core.errors import Place
from pipeline.kernel.engine import arrow_reader, connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import listed, quoted

if TYPE_CHECKING:
    import duckdb
    import fsspec
    import numpy as np

SAMPLE_ROWS = 500_000
"""The most rows of a part that are in memory at once."""
SAMPLE_VALUES = 25_000_000
"""The most values of a sample; it has fewer rows if there are many columns or classes."""
_MEMORY = 1 << 30
"""The memory of DuckDB in a process, in bytes. What does not fit is on disk."""
_BATCH_ROWS = 1 << 16
_BUCKETS = 4096
_ROWS = "labelled"
_DRAWS: Mapping[Purpose, str] = {"holdout": "holdout_draw", "validation": "validation_draw"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HASHES = 1 << 64
Matrix = Callable[[pa.Table], "np.ndarray[Any, Any]"]
"""Returns the features of a batch as numbers, one row each."""


@dataclass(frozen=True)
class StoredRows:
    """Rows of one version of a training set that have a label and an event time, and satisfy a condition. Small when pickled."""

    scan: Scan
    examples: TrainingSet
    evaluation: Evaluation
    kinds: dict[str, Kind]
    place: Place
    filesystem: fsspec.AbstractFileSystem | None = None
    condition: str = "true"
    """In SQL, over the columns of the training set."""
    count: int = 0
    """The number of rows that satisfy the condition."""

    @contextmanager
    def open(self, threads: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a connection with the rows as a view, and the functions that draw groups."""
        from duckdb.func import ARROW, SPECIAL  # noqa: PLC0415 - DuckDB is loaded when rows are read

        by = self.evaluation.holdout.by
        functions = _DRAWS if by else {}
        with connect(Limits(_MEMORY, threads), filesystem=self.filesystem) as con:
            types = {column.name: str(column.type) for column in self.scan.schema.columns}
            label, time = quoted(self.evaluation.label), quoted(self.examples.event_time)
            usable = f"{label} is not null and {time} is not null"
            con.execute(f"create or replace temp view {_ROWS} as select * from ({self.scan.query()}) where {usable}")
            created: list[str] = []
            try:
                for purpose, name in functions.items():
                    kind = "struct(" + ", ".join(f"{quoted(column)} {types[column]}" for column in by) + ")"
                    draw = _draw_of(by, purpose)
                    con.create_function(name, draw, [kind], "double", type=ARROW, null_handling=SPECIAL)
                    created.append(name)
                yield con
            finally:
                for name in created:  # the next user of the instance would see them
                    con.remove_function(name)

    @property
    def time(self) -> str:
        """The event time in SQL: microseconds since 1970."""
        return f"epoch_us(cast({quoted(self.examples.event_time)} as timestamptz))"

    def only(self, condition: str, con: duckdb.DuckDBPyConnection) -> StoredRows:
        """Return the rows that satisfy a further condition."""
        both = f"{self.condition} and {condition}"
        return replace(self, condition=both, count=_number(con, f"select count(*) from {_ROWS} where {both}"))

    def divided(self, held_out: str, con: duckdb.DuckDBPyConnection) -> tuple[StoredRows, StoredRows]:
        """Return the rows that do not satisfy a condition, and those that do."""
        rest = self.only(f"({held_out})", con)
        return replace(self, condition=f"{self.condition} and not ({held_out})", count=self.count - rest.count), rest

    def validation(self, con: duckdb.DuckDBPyConnection) -> tuple[StoredRows, StoredRows]:
        """Return the rows for the estimator, and those that validate choices; see `Holdout.validation`."""
        newest = Holdout(share=SHARE, by=self.evaluation.holdout.by)
        return self.divided(self._held_out(newest, "validation", con), con)

    def newest(self, share: float) -> tuple[StoredRows, StoredRows]:
        """Return the earlier rows, and a share of the newest ones; rows of one time are on one side."""
        with self.open() as con:
            return self.divided(self._held_out(Holdout(share=share), "validation", con), con)

    def holdout(self, con: duckdb.DuckDBPyConnection) -> tuple[StoredRows, StoredRows]:
        """Return the rows for training, and those for evaluation."""
        return self.divided(self._held_out(self.evaluation.holdout, "holdout", con), con)

    def validated(self) -> tuple[StoredRows, LabelledRows]:
        """Return the rows for the estimator, and those that validate choices, of which there may be a sample."""
        with self.open() as con:
            others, rest = self.validation(con)
            sample = rest.sample(con)
        require_both_labels(sample, self.evaluation, self.place)
        return others, sample

    def part(self, con: duckdb.DuckDBPyConnection) -> Part:
        """Return what is known of all rows; there is at least one."""
        label = quoted(self.evaluation.label)
        mean = "null" if isinstance(self.evaluation.kind, Multiclass) else f"avg(cast({label} as double))"
        query = f"select min({self.time}), max({self.time}), {mean} from {_ROWS} where {self.condition}"
        first, last, mean_label = con.sql(query).fetchall()[0]
        return Part(self.count, _at(first), _at(last), None if mean_label is None else float(mean_label))

    def sample(self, con: duckdb.DuckDBPyConnection, *, classes: int = 0) -> LabelledRows:
        """Return all rows in the order of event time and key, or about as many as may be in memory, drawn by a hash of the key.

        The same rows give the same sample, whatever their order in the files.
        """
        evaluation = self.evaluation
        others = dict.fromkeys((*evaluation.segments, *evaluation.baseline, *evaluation.holdout.by))
        names = [*dict.fromkeys((*self.kinds, *others, evaluation.label, self.examples.event_time, *self.examples.key))]
        most = min(SAMPLE_ROWS, max(1, SAMPLE_VALUES // (len(names) + classes)))
        condition = self.condition
        if self.count > most:
            condition += f" and hash('sample', {listed(self.examples.key)}) < {_HASHES * most // self.count}::ubigint"
        query = f"select {listed(names)} from {_ROWS} where {condition} order by {self._order}"
        table = con.sql(query).to_arrow_table()
        rows = labelled_rows(table, self.kinds, self.examples, evaluation, self.place)
        return rows if self.count <= most else replace(rows, sample_of=self.part(con))

    def labels(self, con: duckdb.DuckDBPyConnection) -> dict[Any, int]:
        """Return the number of rows of each label; for classes."""
        label = quoted(self.evaluation.label)
        query = f"select {label}, count(*) from {_ROWS} where {self.condition} group by 1 order by 1"
        found = con.sql(query).fetchall()
        return dict(found if isinstance(self.evaluation.kind, Multiclass) else ((int(value), n) for value, n in found))

    def class_weights(self, classes: tuple[Any, ...]) -> tuple[float, ...]:
        """Return the weight of a row of each class with which all classes count the same."""
        with self.open() as con:
            counts = self.labels(con)
        return tuple(self.count / (len(counts) * counts[each]) if each in counts else 0.0 for each in classes)

    def categories(self, most: int) -> dict[str, tuple[str, ...]]:
        """Return the most frequent values of each text, at most so many, in order."""
        texts = [name for name, kind in self.kinds.items() if kind == "text"]
        with self.open() as con:
            return {name: self._categories(con, quoted(name), most) for name in texts}

    def moments(self, names: Sequence[str]) -> dict[str, tuple[float | None, float | None, int]]:
        """Return the mean and standard deviation of the finite values of columns, and how many are missing or infinite.

        A time counts in seconds since 1970.
        """
        parts = []
        for name in names:
            column = quoted(name)
            value = (
                f"epoch_us({column}::timestamptz) / 1e6" if self.kinds.get(name) == "timestamp" else f"{column}::double"
            )
            finite = f"filter (coalesce(isfinite({value}), false))"
            parts.append(f"avg({value}) {finite}, stddev_pop({value}) {finite}, count(*) - count(*) {finite}")
        if not parts:
            return {}
        with self.open() as con:
            found = con.sql(f"select {', '.join(parts)} from {_ROWS} where {self.condition}").fetchall()[0]
        triples = zip(found[::3], found[1::3], found[2::3], strict=True)
        return dict(zip(names, triples, strict=True))

    def _categories(self, con: duckdb.DuckDBPyConnection, name: str, most: int) -> tuple[str, ...]:
        where = f"{self.condition} and {name} is not null"
        query = f"select {name}, count(*) from {_ROWS} where {where} group by 1 order by 2 desc, 1 limit {most}"
        return tuple(sorted(str(value) for value, _ in con.sql(query).fetchall()))

    def read(self, share: tuple[int, int] | None) -> Iterator[pa.Table]:
        """Yield features and label in batches, in the order of event time and key, on one core.

        `share` is the number of a worker and how many workers there are: rows are divided by a hash of the key. `None` reads all rows.
        """
        condition = self.condition
        if share is not None and share[1] > 1:
            condition += f" and hash('share', {listed(self.examples.key)}) % {share[1]} = {share[0]}"
        names = listed([*self.kinds, self.evaluation.label])
        with self.open(threads=1) as con:
            reader = arrow_reader(
                con, f"select {names} from {_ROWS} where {condition} order by {self._order}", _BATCH_ROWS
            )
            for batch in reader:
                yield pa.Table.from_batches([batch], reader.schema)

    @property
    def _order(self) -> str:
        return f"{self.time}, {listed(self.examples.key)}"

    def _held_out(self, holdout: Holdout, purpose: Purpose, con: duckdb.DuckDBPyConnection) -> str:
        """Return the condition of the rows that are held out; see `Holdout.mask`."""
        if not self.count:
            return "false"
        if holdout.by:
            groups = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in holdout.by)
            return f"{_DRAWS[purpose]}(struct_pack({groups})) < {holdout.share!r}::double"
        if holdout.at is not None:
            return f"{self.time} >= {_microseconds(holdout.at)}"
        if holdout.newest is not None:
            latest = _number(con, f"select max({self.time}) from {_ROWS} where {self.condition}")
            return f"{self.time} > {latest - holdout.newest // timedelta(microseconds=1)}"
        begin = max(self.count - round(self.count * holdout.share), 0)
        return f"{self.time} >= {self._time_at(con, begin)}" if begin < self.count else "false"

    def _time_at(self, con: duckdb.DuckDBPyConnection, position: int) -> int:
        """Return the time of the row at a position in the order of event times: exact, by counting in ever narrower ranges."""
        bounds = f"select min({self.time}), max({self.time}) from {_ROWS} where {self.condition}"
        low, high = con.sql(bounds).fetchall()[0]
        while low < high:
            width = (high - low) // _BUCKETS + 1
            bucket, where = f"({self.time} - {low}) // {width}", f"{self.time} between {low} and {high}"
            counts = f"select {bucket}, count(*) from {_ROWS} where {self.condition} and {where} group by 1 order by 1"
            for number, rows in con.sql(counts).fetchall():
                if position < rows:
                    low = low + number * width
                    high = min(high, low + width - 1)
                    break
                position -= rows
        return int(low)


@dataclass(frozen=True)
class Spooled:
    """Rows in a file of numbers, in which they can be read in any order."""

    features: np.ndarray[Any, Any]
    label: np.ndarray[Any, Any]
    """Numbers; for classes, their positions."""


def spool(
    rows: StoredRows, share: tuple[int, int] | None, matrix: Matrix, file: Path, classes: tuple[Any, ...]
) -> Spooled:
    """Write the features of a share of rows to a file, and return them mapped from it: they take no memory that is needed elsewhere."""
    import numpy as np  # noqa: PLC0415 - needed only for training

    labels, width, dtype = [], 0, np.dtype(float)
    known = pa.array(classes) if isinstance(rows.evaluation.kind, Multiclass) else None
    with file.open("wb") as target:
        for batch in rows.read(share):
            numbers = np.ascontiguousarray(matrix(batch))
            width, dtype = numbers.shape[1], numbers.dtype
            numbers.tofile(target)
            labels.append(_label(batch[rows.evaluation.label], rows, known))
    label = np.concatenate(labels) if labels else np.empty(0)
    if not len(label):
        return Spooled(np.empty((0, width or 1)), label)
    return Spooled(np.memmap(file, dtype=dtype, mode="r", shape=(len(label), width)), label)


def _label(column: pa.ChunkedArray, rows: StoredRows, classes: pa.Array | None) -> np.ndarray[Any, Any]:
    label = rows.evaluation.kind.label(column, rows.evaluation.label, rows.place)
    numbers = label if classes is None else pc.index_in(label, classes.cast(label.type))
    found: np.ndarray[Any, Any] = numbers.cast(pa.float64()).to_numpy()
    return found


def _draw_of(by: tuple[str, ...], purpose: Purpose) -> Callable[[pa.ChunkedArray], pa.Array]:
    def draw(groups: pa.ChunkedArray) -> pa.Array:
        columns = pa.Table.from_struct_array(groups)
        return pa.array(draws(group_texts(columns, by), purpose))

    return draw


def _number(con: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(con.sql(query).fetchall()[0][0])


def _microseconds(time: datetime) -> int:
    return (time.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


def _at(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
