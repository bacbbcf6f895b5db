"""The jobs in Evidently: `in_evidently.py JOB ARGUMENTS FOLDER`; writes its result to the folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.peers.timings import Clock


def drift(clock: Clock, rows: str, numbers: str, texts: str, to: str) -> None:
    """The columns of the last day that differ from those of the five days before, by the index with threshold 0.2."""
    with clock.part("import"):
        os.environ["DO_NOT_TRACK"] = "1"
        common: Any = import_module("pandas.core.dtypes.common")
        if not hasattr(common, "infer_dtype_from_object"):  # pandas 3 no longer has it
            common.infer_dtype_from_object = lambda dtype: np.dtype(dtype).type
        evidently, presets = import_module("evidently"), import_module("evidently.presets")
    with clock.part("read"):
        frame = pd.read_parquet(rows)
        days = sorted(frame["at"].unique())
        current, reference = frame[frame["at"] == days[-1]], frame[frame["at"].isin(days[-6:-1])]
    with clock.part("report"):
        columns = [[f"x{k}" for k in range(int(numbers))], [f"c{k}" for k in range(int(texts))]]
        definition = evidently.DataDefinition(numerical_columns=columns[0], categorical_columns=columns[1])
        preset = presets.DataDriftPreset(num_method="psi", cat_method="psi", num_threshold=0.2, cat_threshold=0.2)
        sides = (evidently.Dataset.from_pandas(side, data_definition=definition) for side in (current, reference))
        tests = evidently.Report([preset], include_tests=True).run(*sides).dict()["tests"]
    failed = [t["metric_config"]["params"].get("column") for t in tests if str(t["status"]).endswith("FAIL")]
    Path(to, "drifted.json").write_text(json.dumps(sorted(name for name in failed if name)))


JOBS: dict[str, Callable[..., None]] = {"drift": drift}

if __name__ == "__main__":
    clock = Clock()
    JOBS[sys.argv[1]](clock, *sys.argv[2:])
    clock.say()
