"""R reads tables of the lake and of a server: the examples of its page, and every type, version and kind of log."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pytest
from deltalake import DeltaTable

from ml.session import Rows
from pipeline import connect
from pipeline.governance.api_keys import ApiKeys
from pipeline.project.workspace import Workspace
from tests.rigs.in_process_server import served
from tests.rigs.r_program import run_r

ROOT = Path(__file__).parents[2]
DEFINITIONS = """
from ml import model, training_set
from pipeline import files, mart, source, sql

raw_trips = source(files("data/*.csv"), schema={"trip": "bigint", "at": "timestamp", "station": "varchar", "km": "double"})
trips = sql("select *, km > 5 as overtime from raw_trips", key="trip", sequence_by="at", partition_by="station")
trips_by_station = mart("select station, count(*) as trips from trips group by all", key="station")
trip_examples = training_set("select trip, at, km, overtime from trips", key="trip", event_time="at")
types = mart('''
    select trip, 9007199254740993 + trip as big, trip::integer as small, (trip / 4)::decimal(12, 3) as price, km, overtime,
           at as clock, at::timestamptz as instant, at::date as day, 'é 🫖 ' || station as words, encode(station) as bytes,
           [km, null] as l, {'a': trip, 'b': [station]} as s
    from trips
''', key="trip")


@model(label="overtime", holdout=0.25, at_least=0.6, min_rows=4)
def long_trips(trip_examples):
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression().fit(trip_examples[["km"]], trip_examples["overtime"])
"""
COPY = """
source("headwater.R")
save <- function(rows, file) arrow::write_ipc_stream(arrow::as_arrow_table(rows), file)
"""


def write(folder: Path, number: int, rows: int = 40) -> None:
    """Write trips; those of later files replace some of the first one."""
    lines = ["trip,at,station,km"]
    for i in range(rows):
        station = "" if i == 7 else f"{['Lake', 'Zoo'][i % 2]}"
        lines.append(f"{i + number * 30},2026-03-{number + 1:02} {i % 24:02}:00:00,{station},{1 + i * 5 % 12}")
    (folder / "data" / f"{number}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("r")
    run_r("1", folder)  # skips without R
    (folder / "headwater.toml").write_text('[project]\nname = "bikes"\ndefinitions = "bikes.py"\n')
    (folder / "bikes.py").write_text(DEFINITIONS)
    (folder / "data").mkdir()
    shutil.copy(ROOT / "r" / "headwater.R", folder)
    with connect(folder) as bikes:
        write(folder, 0)
        bikes.run()
        write(folder, 1)
        bikes.run("+trips", "+types", "+trips_by_station")
    return folder


@contextmanager
def served_folder(folder: Path) -> Iterator[str]:
    """Serve a project on loopback; yields the address."""
    project = connect(folder).project
    text, _ = ApiKeys(Workspace(project).catalog, project.settings.env).create("R", scopes=["read", "predict"])
    os.environ["HEADWATER_API_KEY"] = text
    try:
        with served(project) as url:
            yield url
    finally:
        del os.environ["HEADWATER_API_KEY"]


def run(script: str, folder: Path) -> str:
    process = run_r(script, folder)
    assert process.returncode == 0, process.stderr
    return process.stdout


def copied(file: Path) -> list[dict[str, object]]:
    """The rows of a file, in order."""
    return pa.ipc.open_stream(file.read_bytes()).read_all().sort_by("trip").to_pylist()


def in_utc(rows: Rows) -> list[dict[str, object]]:
    """The rows of a table, in order; times without a zone are in UTC."""
    return [
        {name: value.replace(tzinfo=UTC) if isinstance(value, datetime) else value for name, value in row.items()}
        for row in rows.arrow().sort_by("trip").to_pylist()
    ]


def test_the_examples_of_the_page(folder):
    blocks = re.findall(r"```r\n(.*?)```", (ROOT / "docs" / "r.md").read_text(), re.DOTALL)
    with served_folder(folder) as url:
        printed = run(f'url <- "{url}"\n' + "\n".join(blocks), folder)
    *lines, labels, short, long, error = [line.split() for line in printed.splitlines()]
    assert lines == [
        ["station", "n"],
        ["1", "Lake", "18"],
        ["2", "Zoo", "20"],
        ["3", "<NA>", "2"],
        ["40", "trips", "at", "first,", "70", "now"],
        ["station", "trips"],
        ["1", "Lake", "35"],
        ["2", "Zoo", "33"],
    ]
    assert (labels, short[2], long[2]) == (["probability", "label"], "FALSE", "TRUE")
    assert float(short[1]) < 0.5 < float(long[1])
    assert " ".join(error) == "404: there is no table 'trips_by_statio'; did you mean 'trips_by_station'?"


def test_every_type_arrives_as_it_is(folder):
    run(COPY + 'save(hw_lake(".headwater/lake", "types"), "types.arrow")', folder)
    assert copied(folder / "types.arrow") == in_utc(connect(folder).table("types"))


def test_times_are_in_utc(folder):
    with served_folder(folder) as url:
        shown = f"""source("headwater.R")
            for (rows in list(as.data.frame(hw_lake(".headwater/lake", "types")), hw_table("{url}", "types")))
              cat(with(rows[rows$trip == 5, ], format(clock)), class(rows$big), class(rows$price), class(rows$day), "\\n")"""
        printed = run(shown, folder)
    assert printed.splitlines() == ["2026-03-01 05:00:00 integer64 numeric Date "] * 2


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_each_version_equals_what_headwater_reads(folder, tmp_path, has_checkpoint):
    lake = tmp_path / "lake"
    shutil.copytree(folder / ".headwater" / "lake", lake)
    if has_checkpoint:
        DeltaTable(lake / "silver" / "trips").create_checkpoint()
        (lake / "silver" / "trips" / "_delta_log" / f"{0:020}.json").unlink()
    versions = [1] if has_checkpoint else [0, 1]
    shutil.copy(folder / "headwater.R", tmp_path)
    reads = "".join(f'save(hw_lake("lake", "trips", {number}), "{number}.arrow")\n' for number in versions)
    run(COPY + reads + 'save(hw_lake("lake", "trips"), "newest.arrow")', tmp_path)
    with connect(folder) as bikes:
        for number in versions:
            assert copied(tmp_path / f"{number}.arrow") == in_utc(bikes.table("trips", version=number))
        assert copied(tmp_path / "newest.arrow") == in_utc(bikes.table("trips"))


def test_all_pages_of_a_table_are_read(folder):
    with served_folder(folder) as url:
        run(COPY + f'save(hw_table("{url}", "types", limit = 7), "pages.arrow")', folder)
    ours = in_utc(connect(folder).sql("select trip, small, words, clock, day from types"))
    kept = set(ours[0])
    assert [{n: value for n, value in row.items() if n in kept} for row in copied(folder / "pages.arrow")] == ours


WRONG = {
    'hw_lake(".headwater/lake", "trip")': "the lake .headwater/lake has no table 'trip'; run `headwater run`",
    'hw_lake(".headwater/lake", "trips", version = 9)': ".*trips has no version 9; the newest is 1",
    'hw_table(url, "trips_by_station", "day")': 'name each parameter: select = "day"',
    'hw_table(url, "trips_by_station", trips = "gt.x")': "400: .*",
    'hw_table(url, "a b/c")': "404: .*",
    'hw_predict(url, "late", data.frame(km = 1))': "404: there is no model 'late'.*",
    'hw_predict(url, "long_trips", data.frame(m = 1))': "422: .*",
}


def test_errors_say_what_is_wrong(folder):
    calls = "\n".join(f"tryCatch({call}, error = function(e) cat(conditionMessage(e), '\\n'))" for call in WRONG)
    with served_folder(folder) as url:
        printed = run(f'source("headwater.R")\nurl <- "{url}"\n{calls}', folder).splitlines()
    for (call, expected), said in zip(WRONG.items(), printed, strict=True):
        assert re.fullmatch(expected, said.strip()), f"{call}: {said}"
