"""The identity of files: locations are independent of the spelling of the pattern and of the project's location."""

from __future__ import annotations

import errno
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import files
from pipeline.connectors import ReadPlan
from pipeline.connectors.files import Files
from pipeline.core.cursors import Bound, Cursor
from pipeline.core.errors import SourceError, StorageError
from tests.rigs.proofs import examples


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    for name in ("f1", "f2"):
        (folder / "data" / f"{name}.csv").write_text(f"id\n{name[1]}\n")
    (folder / "link").symlink_to(folder / "data")
    return folder


def plan(project: Path, pattern: str | Path, cursor: Cursor | None = None, **bound: object) -> ReadPlan:
    reader = files(pattern)
    assert isinstance(reader, Files)
    return reader.within(project).plan(cursor, Bound(**bound))


def named(plan: ReadPlan) -> list[str]:
    return [split.source_object.uri for split in plan.splits]


PATTERNS = [
    "data/f*.csv",
    "data/../data/f*.csv",
    "./data/f*.csv",
    "data//f*.csv",
    "link/f*.csv",
    "*/f*.csv",
    "**/f*.csv",
    "PROJECT/data/f*.csv",
    "PROJECT/./data/../data/f*.csv",
    "file://PROJECT/data/f*.csv",
    "file://PROJECT/data/f%2A.csv",
    "PROJECT/link/f*.csv",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("first", PATTERNS[:1] + PATTERNS[7:8])
def test_identity_is_independent_of_the_pattern(project, first, pattern):
    before = plan(project, first.replace("PROJECT", str(project)))
    after = plan(project, pattern.replace("PROJECT", str(project)), before.cursor)

    assert named(before) == ["data/f1.csv", "data/f2.csv"]
    assert (after.splits, after.changed, after.lost, after.notes) == ((), "", (), ())


@pytest.mark.parametrize("transfer", ["moved", "copied", "copied with its times"])
def test_moved_project_has_no_new_files(project, tmp_path, transfer):
    before, other = plan(project, f"{project}/data/f*.csv"), tmp_path / "other"
    if transfer == "moved":
        project.rename(other)
    else:
        shutil.copytree(
            project, other, symlinks=True, copy_function=shutil.copy2 if "times" in transfer else shutil.copyfile
        )
        if transfer == "copied":
            os.utime(other / "data" / "f1.csv", ns=(1, 1))

    after = plan(other, f"{other}/data/f*.csv", before.cursor)

    assert (after.splits, after.changed, after.lost) == ((), "", ())


def test_file_outside_the_project_is_identified_by_its_absolute_path(project, tmp_path):
    (tmp_path / "away.csv").write_text("id\n1\n")

    assert named(plan(project, tmp_path / "away.csv")) == [str(tmp_path / "away.csv")]
    assert named(plan(project, "../away.csv")) == [str(tmp_path / "away.csv")]


def test_renamed_file_is_not_read_again(project):
    before = plan(project, "data/f*.csv")
    (project / "data" / "f1.csv").rename(project / "data" / "f1_done.csv")

    after = plan(project, "data/f*.csv", before.cursor)

    assert (after.splits, after.lost) == ((), ())
    assert after.notes == ("data/f1_done.csv is data/f1.csv, renamed",)
    again = plan(project, "data/f*.csv", after.cursor)
    assert (again.splits, again.notes, again.cursor) == ((), (), after.cursor)


def test_new_file_with_the_content_of_a_deleted_one_is_read_and_reported(project):
    before = plan(project, "data/f*.csv")
    (project / "data" / "f1.csv").unlink()
    (project / "data" / "f3.csv").write_text("id\n1\n")
    os.utime(project / "data" / "f3.csv", ns=(1, 1))

    after = plan(project, "data/f*.csv", before.cursor)

    assert named(after) == ["data/f3.csv"]
    assert after.lost == ("data/f1.csv",)
    assert after.notes == (
        "data/f3.csv has the content of data/f1.csv, which no longer exists: its rows are loaded again",
    )


def test_one_of_two_copies_counts_as_the_renamed_file(project):
    before = plan(project, "data/f*.csv")
    for name in ("f3.csv", "f4.csv"):
        shutil.copy2(project / "data" / "f1.csv", project / "data" / name)
    (project / "data" / "f1.csv").unlink()

    assert named(plan(project, "data/f*.csv", before.cursor)) == ["data/f4.csv"]


def test_touched_file_is_unchanged(project):
    before = plan(project, "data/f*.csv")
    os.utime(project / "data" / "f1.csv", ns=(1, 1))

    assert plan(project, "data/f*.csv", before.cursor).changed == ""


def test_edit_of_equal_length_is_a_change(project):
    before = plan(project, "data/f*.csv")
    (project / "data" / "f1.csv").write_text("id\n7\n")
    os.utime(project / "data" / "f1.csv", ns=(1, 1))

    assert plan(project, "data/f*.csv", before.cursor).changed == "f1.csv changed"


def test_plan_limits(project):
    os.utime(project / "data" / "f2.csv", (2e9, 2e9))

    assert named(plan(project, "data/f*.csv", size_bytes=1)) == ["data/f1.csv"]
    assert plan(project, "data/f*.csv", size_bytes=1).has_more
    assert named(plan(project, "data/f*.csv", until=datetime(2030, 1, 1, tzinfo=UTC))) == ["data/f1.csv"]


def test_cursor_of_a_different_kind_or_later_version_is_rejected(project):
    before = plan(project, "data/f*.csv").cursor

    with pytest.raises(StorageError, match="kind 'offsets', version 1"):
        plan(project, "data/f*.csv", Cursor("offsets", {}))
    with pytest.raises(StorageError, match="kind 'files', version 9"):
        plan(project, "data/f*.csv", Cursor("files", before.value, 9))


def test_folder_name_with_glob_characters(tmp_path):
    folder = tmp_path / "a[1]"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "f1.csv").write_text("id\n1\n")

    assert named(plan(folder, "data/*.csv")) == ["data/f1.csv"]


def test_no_matching_file_is_an_error(project):
    with pytest.raises(SourceError, match=r"no file matches 'data/x\*\.csv'"):
        plan(project, "data/x*.csv")


STEPS = st.lists(st.tuples(st.sampled_from(["add", "touch", "rename", "remove"]), st.integers(0, 5)), max_size=12)


@settings(max_examples=examples(15, 120), deadline=None)
@given(steps=STEPS, bound=st.none() | st.integers(1, 12))
def test_each_file_is_read_once_after_any_changes(tmp_path_factory, steps, bound):
    """An unchanged file is in exactly one plan, even if it is renamed."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "f0.csv").write_text("id\n0\n")
    reader, cursor, read = files("f*.csv").within(folder), None, []
    contents = {"f0.csv": 0}
    for number, (what, which) in enumerate(steps, start=1):
        chosen = sorted(contents)[which % len(contents)]
        if what == "add":
            (folder / f"f{number}.csv").write_text(f"id\n{number}\n")
            contents[f"f{number}.csv"] = number
        elif what == "touch":
            os.utime(folder / chosen, ns=(number, number))
        elif what == "rename":
            (folder / chosen).rename(folder / f"f{number}r.csv")
            contents[f"f{number}r.csv"] = contents.pop(chosen)
        elif len(contents) > 1:
            (folder / chosen).unlink()
            contents.pop(chosen)
        plan = reader.plan(cursor, Bound(size_bytes=bound))
        assert plan.changed == ""
        read += [contents[split.source_object.uri] for split in plan.splits]
        cursor = plan.cursor
    while (plan := reader.plan(cursor)).splits:
        read += [contents[split.source_object.uri] for split in plan.splits]
        cursor = plan.cursor
    assert len(read) == len(set(read))
    assert set(read) >= set(contents.values())


@pytest.mark.parametrize("pattern", ["**/*.csv", "*/*.csv", "a/**/*.csv", "[a]/b/*.csv", "a/b/*.csv"])
def test_a_folder_that_cannot_be_listed_is_an_error_although_others_have_files(pattern, tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        (folder / "x.csv").write_text("id\n1\n")
    closed, scan = tmp_path / ("a" if pattern == "*/*.csv" else "a/b"), os.scandir

    def scandir(path="."):  # the rights of a folder do not bind root, as which tests may run
        if isinstance(path, int) or Path(path).resolve() != closed:
            return scan(path)
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SourceError, match="cannot be listed: got Permission denied"):
        files(tmp_path / pattern).source_objects()
