"""The features of boosted trees: numbers, in which texts are codes and nulls are NaN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ml.models.rows import Kind

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ml.models.tasks.task import Features

MOST_CATEGORIES = 1000


@dataclass(frozen=True)
class FeatureEncoding:
    """The kind of each feature, and the values of texts in the order of their codes."""

    kinds: Mapping[str, Kind]
    categories: Mapping[str, tuple[str, ...]]

    @classmethod
    def learned(cls, features: pd.DataFrame, kinds: Mapping[str, Kind], most: int = MOST_CATEGORIES) -> FeatureEncoding:
        """Return the encoding of training rows: of each text, the most frequent values, at most so many."""
        categories = {}
        for name, kind in kinds.items():
            if kind == "text":
                counts = features[name].value_counts()
                # by count, then by value: rows of equal counts must not depend on the order of rows
                ordered = sorted(
                    zip(counts.index.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0])
                )
                categories[name] = tuple(sorted(value for value, _ in ordered[:most]))
        return cls(dict(kinds), categories)

    @property
    def categorical(self) -> list[int]:
        """The positions of texts."""
        return [number for number, kind in enumerate(self.kinds.values()) if kind == "text"]

    def matrix(self, features: Features) -> np.ndarray[Any, Any]:
        """Return features, with the types of `ARROW`, as float64, one row each.

        A text is the code of its value, a time its seconds since 1970. Null and values that did not occur in the training
        rows are NaN.
        """
        import numpy as np  # noqa: PLC0415 - needed only for training and serving

        matrix = np.empty((len(features), len(self.kinds)))
        column = self._arrow_column if isinstance(features, pa.Table) else self._column
        for number, (name, kind) in enumerate(self.kinds.items()):
            matrix[:, number] = column(features[name], name, kind)
        return matrix

    def _arrow_column(self, column: pa.ChunkedArray, name: str, kind: Kind) -> np.ndarray[Any, Any]:
        if kind == "text":
            column = pc.index_in(column, self._values[name])
        seconds = 1e6 if kind == "timestamp" else 1.0
        numbers = column.cast(pa.int64()) if kind == "timestamp" else column
        found: np.ndarray[Any, Any] = numbers.cast(pa.float64(), safe=False).to_numpy() / seconds
        return found

    @cached_property
    def _values(self) -> dict[str, pa.Array]:
        return {name: pa.array(values, pa.string()) for name, values in self.categories.items()}

    def _column(self, column: pd.Series, name: str, kind: Kind) -> np.ndarray[Any, Any]:
        import numpy as np  # noqa: PLC0415 - see above
        import pandas as pd  # noqa: PLC0415 - see above

        if kind == "text":
            codes = pd.Index(self.categories[name], dtype="str").get_indexer(column).astype(float)
            codes[codes < 0] = np.nan
            return np.asarray(codes)
        if kind == "timestamp":
            times = column.to_numpy(dtype="datetime64[us]")
            seconds = times.astype("int64") / 1e6
            seconds[np.isnat(times)] = np.nan
            return np.asarray(seconds)
        return np.asarray(column, dtype=float)
