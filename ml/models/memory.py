"""Whether a training set fits the memory of the process that fits a model to it."""

from __future__ import annotations

from pipeline.core.errors import ModelError, Place
from pipeline.kernel.budget import free_bytes
from pipeline.kernel.scan import Scan

_COPIES = 5
"""How often the values of a training set are in memory at the same time: in tables, frames and the library's own form."""
_BYTES = {"VARCHAR": 60}
_NUMBER = 8


def needed_bytes(scan: Scan) -> int:
    """Return about how much memory a model needs that is fitted to all rows at once."""
    row = sum(_BYTES.get(str(column.type).upper(), _NUMBER) for column in scan.schema.columns)
    return scan.rows * row * _COPIES


def require_memory(scan: Scan, model: str, place: Place) -> None:
    """Raise `ModelError` if all rows of a training set exceed the free memory, before they are read."""
    needed, free = needed_bytes(scan), free_bytes()
    if needed <= free:
        return
    columns = len(scan.schema.columns)
    raise ModelError(
        f"the training set of model {model!r} does not fit the memory of the process that fits it",
        got=f"{scan.rows:,} rows x {columns} columns need about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
        do="let workers read the rows, for example LightGBM(workers=2) or Torch(…, workers=2), or select fewer rows for the training set",
        place=place,
    )
