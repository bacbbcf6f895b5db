"""A split that crashes its workers is divided, by files and then within a file, until the smallest part is quarantined."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import files
from pipeline.batch.division import WAYS, DivisionPolicy, divided
from pipeline.batch.work import Split
from pipeline.core.errors import StorageError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.scan import DataFile, Scan
from pipeline.project import Workspace, load
from pipeline.runner import Runner

BAD, ROWS = 7_777, 10_000
DEFINITIONS = """\
import os
import pyarrow as pa
from pipeline import files, source, table

raw = source(files("data/*.csv"), schema={"id": "bigint"}, stored=False, unreadable="UNREADABLE")

@table(key="id")
def fragile(raw: pa.Table) -> pa.Table:
    if 7777 in raw["id"].to_pylist():
        os._exit(1)
    return raw.select(["id"])
"""


def test_files_are_grouped_and_one_file_is_divided_between_its_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id\n" + "".join(f"{n}\n" for n in range(1000)))
    reader = files(str(path))
    whole = SourceSplit(SourceObject(str(path), path.stat().st_size, "1"))
    policy = DivisionPolicy(reader)

    parts = divided(whole, reader)
    (first,) = policy.parts(Split(0, source_splits=(whole,)))[0].source_splits
    smaller = divided(first, reader)

    last = divided(parts[-1], reader)

    for of, each in ((whole, parts), (first, smaller), (parts[-1], last)):
        assert 2 <= len(each) <= WAYS
        assert (each[0].begin, each[0].first, each[-1].end) == (of.begin, of.first, of.end)
        assert all(a.end == b.begin and a.first + a.lines == b.first for a, b in itertools.pairwise(each))
        rows = [reader.read(part, Schema.of({"id": "BIGINT"})).rows for part in each]
        together = reader.read(of, Schema.of({"id": "BIGINT"})).rows
        assert pa.concat_tables(rows).to_pylist() == together.to_pylist()  # ids and positions
    many = policy.parts(Split(0, source_splits=(whole,) * 20))
    assert [len(part.source_splits) for part in many] == [3] * 6 + [2]


def test_a_line_and_a_bucket_are_not_divided(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id\n1\n")
    one = SourceSplit(SourceObject(str(path), 5, "1"))
    bucket = Split(0, Scan(Schema(()), (DataFile("a", 1, 1), DataFile("b", 1, 1))), beside={"b": Scan(Schema(()))})

    assert divided(one, files(str(path))) == (one,)
    assert DivisionPolicy().parts(bucket) == (bucket,)
    assert len(DivisionPolicy().parts(Split(0, bucket.scan))) == 2


@pytest.mark.ray
@pytest.mark.proof
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("unreadable", ["quarantine", "fail"])
def test_a_row_that_crashes_its_workers(tmp_path: Path, monkeypatch, unreadable):
    monkeypatch.setenv("HEADWATER_EXECUTION", "ray")
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "p.py").write_text(DEFINITIONS.replace("UNREADABLE", unreadable))
    (tmp_path / "data").mkdir()
    for number in range(3):
        ids = range(number * ROWS, number * ROWS + ROWS)
        (tmp_path / "data" / f"{number}.csv").write_text("id\n" + "".join(f"{n}\n" for n in ids))
    runner = Runner(load(tmp_path))

    if unreadable == "fail":
        with pytest.raises(
            StorageError, match=r"one split crashes every worker: got .*0.csv from \d+ to \d+;"
        ) as error:
            runner.run()
        begin, end = (int(word) for word in error.value.got.split() if word.isdigit())
        assert b"7777\n" in (tmp_path / "data" / "0.csv").read_bytes()[begin:end]
        assert end - begin == len(b"7777\n")
        return
    (step,) = runner.run().steps

    workspace = Workspace(load(tmp_path))
    kept = {row["id"] for row in workspace.query("select id from fragile").to_pylist()}
    (aside,) = workspace.lake.rows(workspace.lake.quarantine("fragile")).to_pylist()
    lost = set(range(3 * ROWS)) - kept
    assert BAD in lost
    assert lost == {BAD}
    assert aside["reasons"] == "unreadable: workers that read it crash"
    assert aside["_source"].endswith("0.csv")
    assert " from " in aside["row"]
    assert (step.flow.quarantined, step.flow.rows_out) == (1, 3 * ROWS - len(lost))
    assert Runner(load(tmp_path)).run().steps[0].decision == "skip"
