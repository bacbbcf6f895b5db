"""Declared rules for new, changed and vanished files."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import files
from pipeline.connectors.files import Files
from pipeline.core.cursors import Bound
from pipeline.core.errors import DefinitionError, SourceError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.decide import RunOptions
from pipeline.runner.runner import Runner
from tests.rigs.proofs import examples

NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


def write(folder, name: str, row: int, before: timedelta = timedelta(hours=1)) -> None:
    (folder / name).write_text(f"id\n{row}\n")
    at = int((NOON - before).timestamp())
    os.utime(folder / name, (at, at))


def reader(folder, **rules: object) -> Files:
    return replace(files("f*.csv", **rules).within(folder), clock=lambda: NOON)


def named(plan) -> list[str]:
    return [split.source_object.uri for split in plan.splits]


def test_a_file_waits_until_it_is_settled(tmp_path):
    write(tmp_path, "f1.csv", 1)
    write(tmp_path, "f2.csv", 2, timedelta(seconds=59))
    write(tmp_path, "f3.csv", 3, timedelta(seconds=-5))  # the clocks differ
    source = reader(tmp_path, settled="1 minute")

    plan = source.plan(None)

    assert named(plan) == ["f1.csv"]
    assert plan.notes == ("2 files changed less than 1 minute ago and will be read later: f2.csv, f3.csv",)
    assert list(source.extents()) == ["f1.csv"]
    later = replace(source, clock=lambda: NOON + timedelta(seconds=2))
    assert (named(later.plan(plan.cursor)), list(later.extents())) == (["f2.csv"], ["f1.csv", "f2.csv"])
    assert named(files("f*.csv").within(tmp_path).plan(None)) == ["f1.csv", "f2.csv", "f3.csv"]


def test_a_file_that_is_being_changed_is_judged_when_it_is_settled(tmp_path):
    write(tmp_path, "f1.csv", 1)
    source = reader(tmp_path, settled="1 minute")
    plan = source.plan(None)
    write(tmp_path, "f1.csv", 7, timedelta(seconds=3))

    waiting = source.plan(plan.cursor)
    after = replace(source, clock=lambda: NOON + timedelta(minutes=1)).plan(waiting.cursor)

    assert (waiting.changed, waiting.splits, waiting.cursor, waiting.lost) == ("", (), plan.cursor, ())
    assert after.changed == "f1.csv changed"


@pytest.mark.parametrize(("rule", "outcome"), [("reread", "f1.csv changed"), ("keep", "")])
def test_a_changed_file_is_read_again_or_kept(rule, outcome, tmp_path):
    write(tmp_path, "f1.csv", 1)
    source = reader(tmp_path, changed=rule)
    plan = source.plan(None)
    write(tmp_path, "f1.csv", 7, timedelta())

    after = source.plan(plan.cursor)

    assert (after.changed, after.splits) == (outcome, ())
    if rule == "keep":
        assert after.notes == ("f1.csv changed after it was read: its rows are kept, as declared",)
        assert source.plan(after.cursor).notes == ()


def test_changed_and_vanished_files_can_be_errors(tmp_path):
    for number in (1, 2):
        write(tmp_path, f"f{number}.csv", number)
    source = reader(tmp_path, changed="refuse", vanished="refuse")
    plan = source.plan(None)

    write(tmp_path, "f1.csv", 1, timedelta())
    assert source.plan(plan.cursor).splits == ()  # its content is the same
    write(tmp_path, "f1.csv", 7, timedelta())
    with pytest.raises(
        SourceError, match=r'a file that was read has changed: got f1.csv; restore it, or pass changed="reread"'
    ):
        source.plan(plan.cursor)
    write(tmp_path, "f1.csv", 1, timedelta())
    (tmp_path / "f2.csv").rename(tmp_path / "f3.csv")
    assert source.plan(plan.cursor).notes == ("f3.csv is f2.csv, renamed",)
    (tmp_path / "f3.csv").unlink()
    with pytest.raises(
        SourceError, match=r'a file that was read no longer exists: got f2.csv; restore it, or pass vanished="keep"'
    ):
        source.plan(plan.cursor)
    assert reader(tmp_path).plan(plan.cursor).lost == ("f2.csv",)
    assert not source.traits.may_vanish
    assert reader(tmp_path).traits.may_vanish


def test_a_folder_that_was_emptied_after_it_was_read_follows_the_rule(tmp_path):
    (tmp_path / "in").mkdir()
    write(tmp_path, "in/f1.csv", 1)
    write(tmp_path, "in/f2.csv", 2)
    source, strict = (files("in/*.csv", vanished=rule).within(tmp_path) for rule in ("keep", "refuse"))
    with pytest.raises(SourceError, match="no file matches 'out/"):
        files("out/*.csv").within(tmp_path).plan(None)
    assert files("out/*.csv", required=False).within(tmp_path).plan(None).notes == ()
    cursor = source.plan(None).cursor
    for name in ("f1.csv", "f2.csv"):
        (tmp_path / "in" / name).rename(tmp_path / name)

    plan = source.plan(cursor)

    assert (plan.splits, plan.lost, plan.cursor) == ((), ("in/f1.csv", "in/f2.csv"), cursor)
    assert plan.notes == ("no file is there any more; the rows of 2 files are kept",)
    with pytest.raises(SourceError, match=r"a file that was read no longer exists: got in/f1.csv, in/f2.csv"):
        strict.plan(cursor)
    with pytest.raises(SourceError, match="no file matches"):
        source.plan(None)  # to read everything again, for which there is nothing
    write(tmp_path, "in/f3.csv", 3)
    assert named(source.plan(plan.cursor)) == ["in/f3.csv"]
    (tmp_path / "in" / "f3.csv").unlink()
    (tmp_path / "in").rmdir()
    for gone in (source, strict, files("in/*.csv", required=False).within(tmp_path)):
        with pytest.raises(
            SourceError,
            match=r"the folder of 'in/\*\.csv' does not exist: got no folder in; mount or restore it, or correct the path; "
            r"if its files were removed for good, create the empty folder",
        ):
            gone.plan(plan.cursor)


def test_order_of_new_files(tmp_path):
    for number, minutes in ((1, 10), (2, 30), (3, 20)):
        write(tmp_path, f"f{number}.csv", number, timedelta(minutes=minutes))

    assert named(reader(tmp_path).plan(None)) == ["f1.csv", "f2.csv", "f3.csv"]
    source = reader(tmp_path, order="time")
    plan = source.plan(None, Bound(size_bytes=10))
    assert (named(plan), plan.has_more) == (["f2.csv", "f3.csv"], True)
    rest = source.plan(plan.cursor)
    assert (named(rest), rest.is_later) == (["f1.csv"], True)
    write(tmp_path, "f0.csv", 0, timedelta(minutes=40))
    assert not source.plan(rest.cursor).is_later
    write(tmp_path, "f0.csv", 0, timedelta(minutes=1))
    assert source.plan(rest.cursor).is_later
    assert not reader(tmp_path).plan(rest.cursor).is_later


def test_only_the_order_is_part_of_the_fingerprint():
    plain = files("f*.csv").fingerprint
    assert files("f*.csv", settled="1 hour", changed="keep", vanished="refuse").fingerprint == plain
    assert files("f*.csv", order="time").fingerprint != plain
    assert pickle.loads(pickle.dumps(files("f*.csv", order="time"))).rules.order == "time"  # noqa: S301 - our own


def test_unknown_rules_are_errors():
    with pytest.raises(SourceError, match=r"changed= has an unknown value: got 'rereed'; did you mean 'reread'\?"):
        files("f.csv", changed="rereed")
    with pytest.raises(SourceError, match="vanished= has an unknown value: got 3"):
        files("f.csv", vanished=3)
    with pytest.raises(SourceError, match="order= has an unknown value: got 'size'"):
        files("f.csv", order="size")
    with pytest.raises(DefinitionError, match="settled= is not a duration: got 'soon'"):
        files("f.csv", settled="soon")


STEPS = st.lists(st.tuples(st.sampled_from(["add", "change", "remove", "wait"]), st.integers(0, 5)), max_size=10)


@settings(max_examples=examples(20, 300), deadline=None)
@given(steps=STEPS, order=st.sampled_from(["location", "time"]), bound=st.none() | st.integers(1, 12))
def test_kept_files_are_read_once_and_only_when_settled(tmp_path_factory, steps, order, bound):
    folder, at = tmp_path_factory.mktemp("files"), NOON
    source = files("f*.csv", settled="1 minute", changed="keep", order=order).within(folder)
    write(folder, "f0.csv", 0)
    cursor, read = None, []
    for number, (what, which) in enumerate(steps, start=1):
        chosen = sorted(folder.iterdir())[which % len(list(folder.iterdir()))].name
        if what == "wait":
            at += timedelta(seconds=40)
        elif what == "remove" and len(list(folder.iterdir())) > 1:
            (folder / chosen).unlink()
        elif what != "remove":
            write(folder, f"f{number}.csv" if what == "add" else chosen, number, NOON - at)
        plan = replace(source, clock=lambda at=at: at).plan(cursor, Bound(size_bytes=bound))
        assert plan.changed == ""
        for split in plan.splits:
            written_ns = int(split.source_object.stamp.rpartition("-")[2])
            assert written_ns <= (at - timedelta(minutes=1)).timestamp() * 1e9
        read += named(plan)
        cursor = plan.cursor
    assert len(read) == len(set(read))


def test_a_file_that_vanished_is_taken_back_if_that_is_declared(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "p.py").write_text(
        'from pipeline import files, source\nraw = source(files("f*.csv", vanished="reread"))\n'
    )

    def run():
        (step,) = Runner(load(tmp_path), RunOptions()).run().steps
        rows = Workspace(load(tmp_path)).query("select id from raw order by id")["id"].to_pylist()
        return str(step.decision), step.reason, rows

    for number in (1, 2, 3):
        write(tmp_path, f"f{number}.csv", number)
    assert run()[2] == [1, 2, 3]
    (tmp_path / "f2.csv").unlink()
    write(tmp_path, "f4.csv", 4)
    (tmp_path / "f3.csv").rename(tmp_path / "f5.csv")
    assert run() == ("rebuild", "f2.csv no longer exists", [1, 3, 4])
    assert run()[::2] == ("skip", [1, 3, 4])
    assert not reader(tmp_path, vanished="reread").traits.may_vanish
    for number in (1, 4, 5):
        (tmp_path / f"f{number}.csv").unlink()
    with pytest.raises(SourceError, match=r"no file matches 'f\*\.csv'"):  # nothing replaces the rows of the table
        run()
    assert Workspace(load(tmp_path)).query("select count(*) as n from raw")["n"].to_pylist() == [3]


def test_only_files_in_the_manifest_are_read(tmp_path):
    (tmp_path / "in").mkdir()
    for number in (1, 2, 3):
        write(tmp_path, f"in/f{number}.csv", number)
    source = files("in/f*.csv", manifest="in/complete.txt").within(tmp_path)
    with pytest.raises(SourceError, match=r"no file matches 'in/complete\.txt'"):
        source.plan(None)
    assert files("in/f*.csv", manifest="in/complete.txt", required=False).within(tmp_path).plan(None).splits == ()
    (tmp_path / "in" / "complete.txt").write_text("f1.csv\r\n\n./f2.csv\n")

    plan = source.plan(None)

    assert named(plan) == ["in/f1.csv", "in/f2.csv"] == list(source.extents())
    assert plan.notes == ("1 file not in the manifest: in/f3.csv",)
    (tmp_path / "in" / "f1.csv").unlink()  # it was read
    (tmp_path / "in" / "complete.txt").write_text(f"f1.csv\n{tmp_path}/in/f3.csv\n")
    later = source.plan(plan.cursor)
    assert (named(later), later.lost, later.changed) == (["in/f3.csv"], ("in/f1.csv",), "")
    assert source.plan(later.cursor).splits == ()
    (tmp_path / "in" / "complete.txt").write_text("f9.csv\n")
    with pytest.raises(
        SourceError,
        match=r"the manifest lists a file that does not exist: got in/f9\.csv; write a file before the manifest",
    ):
        source.plan(later.cursor)
    (tmp_path / "in" / "complete.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match=r"the manifest is not text in UTF-8: .*; write one path in a line"):
        source.plan(later.cursor)


def test_several_manifests_are_one_list(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path, f"f{number}.csv", number)
    for number in (1, 3):
        (tmp_path / f"{number}.manifest").write_text(f"f{number}.csv")
    assert named(reader(tmp_path, manifest="*.manifest").plan(None)) == ["f1.csv", "f3.csv"]
    with pytest.raises(DefinitionError, match="all files of a source must be in one store"):
        files("f*.csv", manifest="s3://bucket/list.txt")
