"""Training and prediction of a model by LightGBM, compared with LightGBM alone on the same rows.

`train` fits 300 trees to a million rows of 20 numbers and a text, and evaluates them: compared are the run of the model, with its checks,
importances, card and registration, and a script that reads the same rows, encodes them, fits, and measures. `auto` fits in the
process of the run, `ray` by two workers of Ray Train on a local cluster. `tune` compares four trials on Ray Tune and a last fit with
the five fits in turn. `predict` scores the rows from the lake into the lake, and from Parquet to Parquet.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import duckdb

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran
from benchmarks.peer import Script
from benchmarks.project import Project, seconds, source_text, took, written

ROWS, FEATURES, ROUNDS = 1_000_000, 20, 300
RATES = (0.05, 0.1, 0.15, 0.2)
NAMES = [f"f{number}" for number in range(FEATURES)]
SCHEMA = {"id": "bigint", "at": "timestamp", **dict.fromkeys(NAMES, "double"), "city": "varchar", "late": "boolean"}
LEAST_AUC = 0.85
"""How good all of them must be."""
DEFINITIONS = """
from ml import LightGBM, choice, model, predictions, training_set, tune

examples = training_set("select {columns} from raw", key="id", event_time="at")
late = model("examples", LightGBM(rounds={rounds}, num_leaves=31, learning_rate=0.1{workers}), label="late", holdout=0.2,
             at_least=0.6{tuning})
"""
SCORES = 'scores = predictions("late", on="examples", key="id")\n'


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield each job, or only the given ones."""
    rows = max(5_000, round(ROWS * scale))
    numbers = ", ".join(f"((hash(i, {n}) % 1000000) / 1e6)::double as f{n}" for n in range(FEATURES))
    late = "f0 + f1 * f2 + 0.5 * (i % 7 = 3)::int + (hash(i, 99) % 1000000) / 1e6 > 1.4 as late"
    made = (
        f"select i as id, timestamp '2026-01-01' + to_seconds(i) as \"at\", {numbers}, 'city ' || i % 7 as city, {late}"
    )
    files = data.made("examples", made, rows)
    facts = {"rows": rows, "features": FEATURES + 1, "trees": ROUNDS}
    jobs = {
        "train": [_ours("auto", files, "late"), _ours("ray", files, "late", workers=2), _alone("train", files)],
        "tune": [_ours("auto", files, "late", tuned=True), _alone("tune", files)],
        "predict": [_ours("auto", files, "scores"), _alone("predict", files)],
    }
    for name, contestants in jobs.items():
        if name in only or not only:
            yield Case(name, _expected(name, files), contestants, facts)


def _expected(name: str, files: Path) -> Answer:
    """Return the number of rows, and that the trees are good."""
    with duckdb.connect() as con:
        rows = con.sql(f"select count(*) from '{files}/*.parquet'").fetchall()[0][0]
    return [(rows,)] if name == "predict" else [(rows, True)]


def _ours(name: str, files: Path, table: str, *, workers: int = 0, tuned: bool = False) -> Contestant:
    return Contestant(name, partial(_run, files, table, workers, tuned), is_ours=True)


def _alone(job: str, files: Path) -> Contestant:
    script = Script("lightgbm", job, [files], partial(_answer, job), "parts")
    return Contestant("lightgbm", partial(_script, script))


def _script(script: Script, folder: Path) -> Ran:
    return script.run(folder, Path(sys.executable), environ={"OMP_WAIT_POLICY": "passive"})


def _answer(job: str, folder: Path) -> Answer:
    rows, auc = (float(text) for text in (folder / "figures").read_text().split())
    return [(int(rows),)] if job == "predict" else [(int(rows), auc > LEAST_AUC)]


def _run(files: Path, table: str, workers: int, tuned: bool, folder: Path) -> Ran:  # noqa: FBT001 - a parameter of a job
    options = f", workers={workers}" if workers else ""
    tuning = (
        f', tuning=tune({{"learning_rate": choice{RATES}}}, trials=4, scheduler="all", concurrent=1, cpus=2)'
        if tuned
        else ""
    )
    text = DEFINITIONS.format(columns=", ".join(SCHEMA), rounds=ROUNDS, workers=options, tuning=tuning)
    definitions = source_text("raw", files / "*.parquet", SCHEMA, stored=False) + text
    project = Project(written(folder / "project", definitions + (SCORES if table == "scores" else "")))
    project.run("examples")
    if table == "scores":
        project.run("late")
    result, steps = project.run(table)
    rows = project.rows("select count(*) from " + ("scores" if table == "scores" else "examples"))[0][0]
    ran = Ran(took(result), result.seconds, result.peak_bytes, [(rows,)], seconds(steps))
    return ran if table == "scores" else replace(ran, answer=[(rows, _auc(project) > LEAST_AUC)])


def _auc(project: Project) -> float:
    from ml.models.registry.versions import ModelVersions  # noqa: PLC0415 - imports MLflow

    store = f"sqlite:///{project.folder}/.headwater/mlflow.db"
    return float(ModelVersions(store).require("late").metrics["auc"])
