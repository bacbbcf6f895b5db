"""Counts as arrays of windows and bins."""

from __future__ import annotations

from datetime import timedelta

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


def added(shape: tuple[int, int], at: tuple[Places, Places], values: Array) -> Array:
    """Return an array with the sums of the values at each place."""
    result = np.zeros(shape)
    np.add.at(result, at, values)
    return result


def _microseconds(window: timedelta) -> int:
    return window // timedelta(microseconds=1)
