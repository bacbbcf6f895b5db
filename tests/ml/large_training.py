"""Builds a large training set, or trains a model on it and trains it again for comparison, and prints the memory that took."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from ml.models.registry.versions import ModelVersions
from ml.models.reproduction import reproduce
from pipeline.project import Workspace, load
from pipeline.runner.runner import Runner, RunOptions

PROJECT = """
from ml import LightGBM, model, training_set
from pipeline import generate, source

numbers = {{f"x{{n}}": f"hash(i * 31 + {{n}})::double / 18446744073709551616.0" for n in range({columns})}}
raw = source(
    generate(
        {{
            "at": "timestamp '2026-01-01' + to_seconds(i)",
            "city": "chr(65 + (hash(i * 7) % 20)::int)",
            "late": "hash(i * 31)::double / 18446744073709551616.0 + (hash(i * 11) % 5) / 5.0 > 1.0",
            **numbers,
        }},
        count={rows},
        partitions=1,
    ),
    schema={{"at": "timestamp", "city": "varchar", "late": "boolean", **dict.fromkeys(numbers, "double")}},
)
names = ", ".join(numbers)
examples = training_set(f"select _position as id, at, city, late, {{names}} from raw", key="id", event_time="at")
late = model(
    "examples", LightGBM(rounds={rounds}, workers=2, num_leaves=15), label="late", holdout=0.2, at_least=0.8,
    baseline="city", segments="city", calibrate="isotonic",
)
"""
SETTINGS = '[project]\nname = "large"\ndefinitions = "large.py"\n\n[env.dev]\nmemory_bytes = 1_000_000_000\n'


def main(step: str, folder: str) -> None:
    """Build the training set, or train and reproduce the model; print the peak memory of this process, in bytes, and the metrics."""
    project, told = load(Path(folder)), {}
    if step == "build":
        Runner(project, RunOptions(select=("+examples",))).run()
    else:
        verdict = Runner(project, RunOptions(select=("late",))).run().steps[-1].verdict
        workspace = Workspace(project)
        version = ModelVersions(workspace.settings.models).require("late", 1)
        again = reproduce(workspace, workspace.definition("late"), version)
        told = {"equal": again.is_equal, "rows": verdict.rows, **verdict.metrics}
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, **told}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
