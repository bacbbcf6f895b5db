"""After any sequence of runs, a table equals the result of one `--full` run over the same files.

A random project is run repeatedly, while files are added, corrected, renamed and removed, and runs are killed. The same
files are then given to a new project, which is run once. Tables, quarantines and the warehouse must be equal.

- A removed file keeps its rows until `--full`, so the new project gets it, too.
- A renamed file is not read again: its rows keep the old name, so file names are compared without the new part.
- Fractional numbers are compared to 9 digits: a sum depends on the order of addition.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.commit.moments import Moment
from pipeline.project.project import load
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.events import Event
from pipeline.runner.runner import Runner
from tests.rigs.proofs import examples
from tests.runner.conftest import TOML, rows_of

HEAD = """\
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import dimension, drop, fact, files, lookup, mart, quarantine, source, sql, table, warn

COLUMNS = {"id": "bigint", "k": "varchar", "v": "bigint", "at": "timestamp", "op": "varchar"}
raw = source(files("data/*.csv"), schema=COLUMNS)
fed = source(files("data/*.csv"), schema=COLUMNS, stored=False)


def doubled_rows(raw: pa.Table) -> pa.Table:
    return raw.select(["id", "v"]).append_column("w", pc.multiply(raw["v"], 2))


def fed_rows_doubled(fed: pa.Table) -> pa.Table:
    return fed.select(["id", "v"])


"""
EXPECT = 'expect=[quarantine("q", "v <> 3"), drop("d", "k <> \'d\'"), warn("w", "v < 2")]'
DEFINITIONS = {
    "raw_keyed": 'source(files("data/*.csv"), schema=COLUMNS, key="id")',
    "keyed": 'sql("select id, v from raw", key="id")',
    "judged": f'sql("select id, k, v, at from raw", key=("id", "k"), {EXPECT})',
    "judged_rows": f'sql("select k, v from raw", {EXPECT})',
    "keyed_star": 'sql("select * exclude (_ingested_at) from raw", key="id")',
    "keyed_cte": 'sql("with c as (select id, v from raw where v < 3) select id, v from c", key="id")',
    "keyed_twice": 'sql("select v, id from keyed", key="v")',
    "keyed_joined": 'sql("select r.v, r.id, f.n from raw r join grouped f on r.k is not distinct from f.k", key="v")',
    "fed_keyed": 'sql("select id, v from fed", key="id")',
    "fed_rows": f'sql("select id, k, v, at from fed", {EXPECT})',
    "fed_cte": 'sql("with c as (select id, v from fed where v < 3) select id, v from c", key="id")',
    "merged": 'sql("select id, at, k, v, op from raw", key="id", sequence_by="at", apply_as_deletes="op = \'D\'")',
    "fed_merged": 'sql("select id, at, v, op from fed", key="id", sequence_by="at", apply_as_deletes="op = \'D\'")',
    "followed": 'sql("select id, v * 2 as v from merged", key="id")',
    "grouped": 'sql("select k, count(*) as n, sum(v) as s, avg(v / 3) as a, max(at) as m from raw group by k")',
    "chosen": 'sql("select k, any_value(v) as a, mode(v) as m, arg_max(id, v) as x, arg_min(v, at) as y from raw group by k")',
    "chosen_window": 'sql("select k, v, any_value(id) as a, mode(id) as m from raw group by k, v qualify row_number() over (order by count(*)) < 4")',
    "collected": "sql(\"select k, list(v) as vs, string_agg(k, ',') as ks, array_agg(distinct v) as ds from raw group by k\")",
    "collected_at_ties": 'sql("select k, list(v order by at) as vs, first(v order by at) as f, last(v order by at) as l from raw group by k")',
    "gathered_mode": 'sql("select mode(v) as m, arg_max(k, v) as x, any_value(k) as a from (select k, v from raw union all select k, id from raw)")',
    "fed_chosen": 'sql("select k, any_value(v) as a, mode(v) as m, arg_max(id, v) as x from fed group by k")',
    "some": 'sql("select id, v from raw limit 3")',
    "some_of_some": 'sql("select id, v from (select * from raw limit 4) order by v limit 2")',
    "top": 'mart("select id, k from raw order by v desc limit 2")',
    "numbered": 'sql("select id, v, row_number() over (partition by k order by at) as n from raw")',
    "unnumbered": 'sql("select id, v, lag(v) over () as n from raw")',
    "latest": 'sql("select id, v, k from raw qualify row_number() over (partition by id order by at desc) = 1", key="id")',
    "latest_star": 'sql("select * exclude (_ingested_at) from raw qualify row_number() over (partition by id order by at desc) = 1", key="id")',
    "one_each": 'sql("select distinct on (id) id, v, k from raw order by at")',
    "running": 'sql("select id, v, sum(v) over (order by raw.at rows unbounded preceding) as s from raw")',
    "quantiles": 'sql("select k, median(v) as m, count(distinct id) as n, histogram(v) as h from raw group by k")',
    "states": 'sql("select k, at, max(v) as v from raw group by k, at")',
    "as_of": 'sql("select r.id, r.at, m.v from raw r asof left join states m on r.k = m.k and r.at >= m.at")',
    "dim_k": 'dimension("select k, max(v) as v from raw where k is not null group by k", key="k")',
    "dim_first": 'dimension("select id, v from raw", key="id")',
    "dim_past": 'dimension("select id, v, at from raw", key="id", stored_as_scd_type=2, sequence_by="at")',
    "dim_fed": 'dimension("select id, v, at from fed_rows", key="id", stored_as_scd_type=2, sequence_by="at")',
    "fact_raw": 'fact("select id, k, at, v from raw", key=("id", "at"), lookups={"k_key": lookup("dim_k", "k"), "past_key": lookup("dim_past", "id", as_of="at")})',
    "doubled": 'table(key="id")(doubled_rows)',
    "fed_doubled": 'table(key="id")(fed_rows_doubled)',
    "by_past": 'mart("select past_key, count(*) as n from fact_raw group by past_key", key="past_key")',
}
NAMES = list(DEFINITIONS)
HEADER = "id,k,v,at,op\n"
EXAMPLES = int(os.environ.get("HEADWATER_EXAMPLES", examples(2, 20)))
OPTIONS: Any = {"phases": [Phase.generate]} if os.environ.get("HEADWATER_NO_SHRINK") else {}


def written(names: Sequence[str]) -> str:
    """Return the project file with these definitions, and those that they read."""
    chosen = set(names)
    for _ in DEFINITIONS:
        chosen |= {n for name in chosen for n in words(DEFINITIONS[name]) & DEFINITIONS.keys()}
    return HEAD + "".join(f"{name} = {text}\n" for name, text in DEFINITIONS.items() if name in chosen)


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


ROW = st.tuples(
    st.sampled_from(["0", "1", "2", "3", "", "x"]),
    st.sampled_from(["a", "b", "d", ""]),
    st.integers(0, 3).map(str),
    st.integers(1, 3).map("2026-01-0{}".format),
    st.sampled_from(["I", "I", "I", "D"]),
)
CONTENT = st.lists(ROW, min_size=1, max_size=5).map(lambda rows: HEADER + "".join(",".join(r) + "\n" for r in rows))
NUMBER = st.integers(0, 4)
STEP = st.one_of(
    st.tuples(st.just("write"), NUMBER, CONTENT),
    st.tuples(st.just("write"), NUMBER, CONTENT),
    st.tuples(st.just("rename"), NUMBER, st.none()),
    st.tuples(st.just("remove"), NUMBER, st.none()),
    st.tuples(st.just("run"), st.none(), st.none()),
    st.tuples(st.just("run"), st.none(), st.none()),
    st.tuples(st.just("full"), st.none(), st.none()),
    st.tuples(st.just("kill"), st.sampled_from([Moment.STAGED, Moment.COMMITTED, Moment.DECIDED]), st.integers(0, 8)),
)


class Killed(BaseException):
    """Simulates that the process is killed."""


@dataclass
class Ground:
    """A project that is run repeatedly, and the files whose rows its tables should contain."""

    folder: Path
    text: str
    expected: dict[str, str] = field(default_factory=dict)
    """The files whose rows count, by name: existing ones, and those deleted since they were read."""
    decisions: list[str] = field(default_factory=list)
    """The actions of the runs."""
    names: dict[int, str] = field(default_factory=dict)
    """The names of the existing files."""

    def __post_init__(self) -> None:
        _start(self.folder, self.text)

    def take(self, kind: str, which: Any, more: Any) -> None:
        """Perform one random action."""
        if kind == "write":
            name = self.names.setdefault(which, f"f{which}.csv")
            self.expected[name] = more
            (self.folder / "data" / name).write_text(more)
        elif kind == "kill" and self.names:
            self.kill(which, more)
        elif kind in {"run", "full"} and self.names:
            self.run(full=kind == "full")
        elif kind == "rename" and which in self.names:
            self.rename(which)
        elif kind == "remove" and which in self.names and len(self.names) > 1:
            self.run()  # otherwise no run has read it
            (self.folder / "data" / self.names.pop(which)).unlink()

    def rename(self, number: int) -> None:
        """Rename a file, keeping its position in the order."""
        self.run()
        old, new = self.names[number], self.names[number].replace(".csv", "_.csv")
        if new not in self.expected:
            (self.folder / "data" / old).rename(self.folder / "data" / new)
            self.names[number] = new
            self.expected[new] = self.expected.pop(old)
            self.take("write", 5, f"{HEADER}1,a,{len(self.decisions)},2026-01-01,I\n")
            self.run()  # a rename is recorded with the next rows; an edit before makes it another file

    def kill(self, moment: Moment, after: int) -> None:
        """Kill a run at a given point of the n-th table."""
        left = after

        def observe(event: Event) -> None:
            nonlocal left
            left -= event.moment is moment
            if left < 0:
                raise Killed

        with contextlib.suppress(Killed):
            self.run(observe)

    def run(self, observe: Any = lambda _: None, *, full: bool = False) -> None:
        """Run; if a source reports that rows would be lost, accept it."""
        run = Runner(load(self.folder), RunOptions(full=full), observer=observe).attempt()
        for step in run.steps:
            self.decisions.append(f"{step.name}: {step.decision}, {step.reason}")
        if full:
            assert run.status == "done", run.error
            self.expected = {name: self.expected[name] for name in self.names.values()}
        elif run.status != "done":
            assert "would lose rows" in str(run.error), run.error
            self.run(full=True)

    def compare(self, other: Path) -> None:
        """Compare the tables with those of a new project over the same files."""
        self.run()
        _start(other, self.text)
        for name, content in self.expected.items():
            (other / "data" / name).write_text(content)
        run = Runner(load(other), RunOptions(full=True)).attempt()
        assert run.status == "done", run.error
        actual, expected = everything(self.folder), everything(other)
        assert actual.keys() == expected.keys()
        for name, rows in expected.items():
            assert actual[name] == rows, (name, self.expected, self.decisions)


def _start(folder: Path, text: str) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text(TOML)
    (folder / "shop.py").write_text(text)


def everything(folder: Path) -> dict[str, list[str]]:
    """Return the rows of every table, quarantine and warehouse table, without run-specific columns."""
    return {name: sorted(map(_plain, rows)) for name, rows in rows_of(folder).items() if rows}


def _plain(text: str) -> str:
    text = re.sub(r'"_ingested_at":"[^"]*"', "", text)
    text = re.sub(r"(f\d)_+\.csv", r"\1.csv", text)
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.9g}", text)


@pytest.mark.share(2)
@pytest.mark.parametrize("name", NAMES)
def test_incremental_runs_equal_a_full_run(name: str, tmp_path_factory: pytest.TempPathFactory):
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), **OPTIONS)
    @given(st.lists(STEP, min_size=2, max_size=8))
    def check(steps: list[tuple[str, Any, Any]]) -> None:
        folder = tmp_path_factory.mktemp("same")
        try:
            ground = Ground(folder / "ours", written([name]))
            ground.take("write", 2, HEADER + "1,a,1,2026-01-01,I\n")
            for step in steps:
                ground.take(*step)
            ground.compare(folder / "other")
        finally:
            shutil.rmtree(folder)

    check()


@pytest.mark.proof
def test_late_file_with_an_earlier_name_has_the_first_row(tmp_path: Path):
    ground = Ground(tmp_path / "ours", written(["keyed", "fed_keyed", "raw_keyed"]))
    ground.take("write", 2, HEADER + "1,a,10,2026-01-01,I\n")
    ground.run()
    ground.take("write", 1, HEADER + "1,a,99,2026-01-01,I\n")
    ground.run()
    for name in ("keyed", "fed_keyed", "raw_keyed"):
        assert "'v': 99" in str(rows_of(ground.folder)[name])
        assert "f2.csv" in str(rows_of(ground.folder)[f"quarantine/{name}"]) or name == "keyed"
    ground.take("write", 3, HEADER + "1,a,7,2026-01-01,I\n2,a,8,2026-01-01,I\n")
    steps = {step.name: step.decision for step in Runner(load(ground.folder), RunOptions()).run().steps}
    assert {steps["keyed"], steps["fed_keyed"], steps["raw_keyed"]} == {"append"}
    ground.compare(tmp_path / "other")


@pytest.mark.proof
def test_corrected_time_is_corrected_in_the_history(tmp_path: Path):
    ground = Ground(tmp_path / "ours", written(["dim_past", "dim_fed"]))
    ground.take("write", 1, HEADER + "1,a,1,2026-01-01,I\n1,a,2,2026-01-02,I\n")
    ground.run()
    ground.take("write", 1, HEADER + "1,a,2,2026-01-03,I\n")
    ground.run()
    assert len(rows_of(ground.folder)["dim_past"]) == len(["unknown", "3 January"])
    ground.compare(tmp_path / "other")
