"""The process that Evidently runs in: it reads two samples, and writes its report of them.

It is started with a folder that contains `current.parquet`, `reference.parquet` and `request.json`, and writes `report.html`
and `report.json` there. Evidently takes seconds to import, and a core for seconds per 10,000 rows; it is imported only here.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Write the report of the samples in a folder."""
    os.environ["DO_NOT_TRACK"] = "1"  # Evidently reports its use otherwise
    warnings.simplefilter("ignore")  # of its dependencies; they do not concern the report
    _make_importable()
    evidently, presets = import_module("evidently"), import_module("evidently.presets")
    pandas = import_module("pandas")
    request = json.loads((folder / "request.json").read_text())
    definition = evidently.DataDefinition(
        numerical_columns=request["numerical"], categorical_columns=request["categorical"]
    )
    samples = [
        evidently.Dataset.from_pandas(pandas.read_parquet(folder / f"{side}.parquet"), data_definition=definition)
        for side in ("current", "reference")
    ]
    limit = request["threshold"]
    drift = presets.DataDriftPreset(num_method="psi", cat_method="psi", num_threshold=limit, cat_threshold=limit)
    run = evidently.Report([drift, presets.DataSummaryPreset()], include_tests=True).run(*samples)
    run.save_html(str(folder / "report.html"))
    (folder / "report.json").write_text(json.dumps(_plain(run.dict())))


def _make_importable() -> None:
    """Give pandas the function that Evidently 0.7.23 imports, and that pandas 3 no longer has."""
    common: Any = import_module("pandas.core.dtypes.common")
    numpy = import_module("numpy")
    if not hasattr(common, "infer_dtype_from_object"):
        common.infer_dtype_from_object = lambda dtype: numpy.dtype(dtype).type


def _plain(value: Any) -> Any:
    """Return a value of Evidently as JSON can have it."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | str):
        return getattr(value, "value", value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(getattr(value, "value", value))
    return number if number == number and abs(number) != float("inf") else None  # noqa: PLR0124 - NaN


if __name__ == "__main__":
    main(Path(sys.argv[1]))
