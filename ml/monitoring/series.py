"""Counts as arrays of windows and bins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ml.monitoring.divergence import Array
from pipeline.core.errors import ModelError

MOST_WINDOWS = 50_000
"""A time column whose windows span more than this contains wrong times."""
UTC_US = pa.timestamp("us", tz="UTC")
Places = npt.NDArray[np.int64]


def numbered(counts: pa.Table, window: timedelta) -> tuple[int, pa.Table]:
    """Return the first window in microseconds, and the counts with the number of their window as `_window`.

    Counts without a window are dropped. Raises `ModelError` if the windows span too long a time.
    """
    dated = counts.filter(counts["window_start"].is_valid())
    times = dated["window_start"].cast(pa.timestamp("us")).cast(pa.int64())
    if not len(times):
        return 0, dated.append_column("_window", times)
    step = _microseconds(window)
    start, end = pc.min(times).as_py(), pc.max(times).as_py()
    if (end - start) // step >= MOST_WINDOWS:
        raise ModelError(
            f"the windows of a monitor span {(end - start) // step:,} times {window}",
            got=f"from {pc.min(dated['window_start']).as_py()} to {pc.max(dated['window_start']).as_py()}",
            do="check the time column, or use a longer window",
        )
    return start, dated.append_column("_window", pc.divide(pc.subtract(times, start), step))


def window_time(start: int, window: int, length: timedelta) -> int:
    """Return the start of a window in microseconds."""
    return start + window * _microseconds(length)


def numbers(column: pa.ChunkedArray) -> Array:
    """Return a column as numbers; null is 0."""
    return np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), 0.0).to_numpy(), np.float64)


@dataclass(frozen=True)
class SeriesRows:
    """The rows of counts that are of one key and segment."""

    key: tuple[Any, ...]
    """The values of the columns `by`."""
    segment: str | None
    """`None` for all rows."""
    first: int
    """The number of the first window of the key."""
    windows: int
    """The number of windows from the first to the last one of the key."""
    rows: Places


def series_rows(counts: pa.Table, by: Sequence[str], *, has_segments: bool) -> Iterator[SeriesRows]:
    """Yield the rows of each key, then of each of its segments, in their order of appearance; `counts` are `numbered`."""
    window = counts["_window"].to_numpy()
    codes, keys = _coded(counts, by)
    segment_codes, segments = _coded(counts, ("segment",) if has_segments else ())
    for k, key in enumerate(keys):
        of_key = np.flatnonzero(codes == k)
        first = int(window[of_key].min())
        windows = int(window[of_key].max()) - first + 1
        yield SeriesRows(key, None, first, windows, of_key)
        for s, (segment,) in enumerate(segments if has_segments else ()):
            rows = of_key[segment_codes[of_key] == s]
            if len(rows):
                yield SeriesRows(key, segment, first, windows, rows)


def _coded(counts: pa.Table, by: Sequence[str]) -> tuple[Places, list[tuple[Any, ...]]]:
    """Return a number for the values of each row in the columns `by`, and the distinct values in their order of appearance."""
    if not by:
        return np.zeros(counts.num_rows, np.int64), [()]
    values = list(zip(*(counts[name].to_pylist() for name in by), strict=True))
    codes = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return np.fromiter((codes[value] for value in values), np.int64, len(values)), list(codes)


def added(shape: tuple[int, int], at: tuple[Places, Places], values: Array) -> Array:
    """Return an array with the sums of the values at each place."""
    result = np.zeros(shape)
    np.add.at(result, at, values)
    return result


def _microseconds(window: timedelta) -> int:
    return window // timedelta(microseconds=1)
