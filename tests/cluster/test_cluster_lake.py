"""`headwater lake` and `query --at`: older versions are shown, compared and restored."""

from __future__ import annotations

import json
import os

import pytest

from pipeline.governance import Leases, this_process
from pipeline.project import Workspace, load
from tests.lake.test_lake_unused_files import age

DEFINITIONS = """\
from pipeline import files, source, sql

raw = source(files("data/*.csv"), schema={"id": "bigint", "name": "varchar"})
names = sql("select id, name from raw", key="id")
later = sql("select count(*) as n from names")
"""


@pytest.fixture
def project(headwater, tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "p.py").write_text(DEFINITIONS)
    (tmp_path / "data").mkdir()
    for number in range(3):
        (tmp_path / "data" / f"{number}.csv").write_text(f"id,name\n{number},n{number}\n")
        headwater("run", check=0)
    return tmp_path


@pytest.mark.usefixtures("project")
def test_versions_are_read_shown_compared_and_restored(headwater):
    def read(*options: str):
        return json.loads(headwater("query", "select count(*) as n from names", "--json", *options, check=0).stdout)

    assert read() == [{"n": 3}]
    assert read("--at", "names=0") == [{"n": 1}]
    facts = json.loads(headwater("lake", "history", "names", "--json", check=0).stdout)
    assert [(each["version"], each["mode"], each["rows_out"]) for each in facts] == [
        (2, "append", 1),
        (1, "append", 1),
        (0, "overwrite", 1),
    ]
    assert read("--at", facts[1]["at"]) == [{"n": 2}]
    assert "cannot be read as of" in headwater("query", "select * from names", "--at", "-2h", check=1).stderr
    shown = headwater("lake", "history", "names", "--limit", "2", check=0).stdout
    assert "append" in shown
    assert "overwrite" not in shown

    changes = json.loads(headwater("lake", "diff", "names", "0", "--rows", "5", "--json", check=0).stdout)
    assert (changes["inserted"], changes["deleted"], changes["updated"]) == (2, 0, 0)
    assert [row["id"] for row in changes["rows"]] == [1, 2]
    printed = headwater("lake", "diff", "names", "2", facts[2]["at"], "--rows", "1", check=0).stdout
    assert "version 2 → 0" in printed
    assert "delete" in printed

    dry = headwater("lake", "restore", "names", "--to", "0", check=0).stdout
    assert "nothing was changed; restore it with --yes" in dry
    assert "read by later: their next run takes over the change" in dry
    assert read() == [{"n": 3}]
    done = json.loads(headwater("lake", "restore", "names", "--to", facts[2]["at"], "--yes", "--json", check=0).stdout)
    assert (done["restored_to"], done["version"], done["diff"]["deleted"]) == (0, 3, 2)
    assert read() == [{"n": 1}]
    assert "restore of 0" in headwater("lake", "history", "names", check=0).stdout
    assert "already has the rows" in headwater("lake", "restore", "names", "--to", "3", check=1).stderr
    headwater("run", check=0)
    assert read() == [{"n": 3}]


@pytest.mark.usefixtures("project")
def test_texts_that_are_no_version_are_refused(headwater):
    error = headwater("lake", "diff", "names", "yesterday", check=1).stderr
    assert "the time or version to read cannot be parsed" in error
    assert "2 hours ago" in error
    problem = "this is not a version of 'names': got 'later=0'"
    assert problem in headwater("lake", "diff", "names", "later=0", check=1).stderr
    assert problem in headwater("lake", "restore", "names", "--to", "later=0", check=1).stderr


def test_a_table_whose_stream_runs_does_not_keep_others_from_compaction(headwater, project):
    (project / "data" / "3.csv").write_text("id,name\n3,n3\n")
    headwater("run", check=0)
    leases, me = Leases(Workspace(load(project)).catalog), this_process()
    leases.acquire("raw", me)
    process = headwater("lake", "compact", "--json", check=1)
    facts = {each["table"]: each for each in json.loads(process.stdout)}
    assert "is not compacted while its stream runs" in facts["raw"]["error"]
    assert facts["names"]["before"] == 4
    assert "raw: table 'raw' is not compacted while its stream runs" in process.stderr


def test_tables_are_maintained(headwater, project):
    names = Workspace(load(project)).table("names")
    for number in range(3):
        age(names, number, 20 - number)
    plan = headwater("lake", "vacuum", "names", check=0).stdout
    assert "0 bytes can be removed: do it with --yes" in plan
    assert len(json.loads(headwater("query", "select * from names", "--at", "names=0", "--json", check=0).stdout)) == 1
    [facts] = json.loads(headwater("lake", "vacuum", "names", "--yes", "--json", check=0).stdout)
    assert (facts["versions"], facts["oldest"], facts["removed"]) == (2, 2, True)
    assert "can no longer be read" in headwater("query", "select * from names", "--at", "names=0", check=1).stderr
    for number in range(3, 6):
        (project / "data" / f"{number}.csv").write_text(f"id,name\n{number},n{number}\n")
        headwater("run", check=0)
    assert "names: 6 files compacted into 1, as version 6" in headwater("lake", "compact", "names", check=0).stdout
    assert headwater("lake", "compact", "names", check=0).stdout == "names: no small files\n"
    assert "up to date" in headwater("run", check=0).stdout
    done = json.loads(headwater("lake", "maintain", "--json", check=0).stdout)
    assert [(each["table"], each["files_before"], each["note"]) for each in done] == [
        ("raw", 6, ""),
        ("names", 0, ""),
        ("later", 0, ""),
    ]
    headwater("lake", "maintain", "later", check=0)
    steps = json.loads(headwater("run", "--json", check=0).stdout)["steps"]
    assert {step["decision"] for step in steps} == {"skip"}
    assert "did you mean 'names'" in headwater("lake", "maintain", "nmaes", check=1).stderr
    for name in names.storage.names("_headwater/"):
        if name.count("/") == 1:
            names.storage.write_text(name, "{}")
    done = json.loads(headwater("lake", "maintain", "--json", check=1).stdout)
    assert [(each["table"], each["error"].partition(":")[0]) for each in done] == [
        ("raw", ""),
        ("names", "the manifest of table 'names' is damaged"),
        ("later", ""),
    ]
    assert "the manifest of table 'names' is damaged" in headwater("lake", "maintain", check=1).stdout.replace(
        "\n", " "
    )


def test_old_fetches_of_apis_are_removed_with_all_tables(headwater, tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    urls = ", ".join(f'source(rest("https://api.example.com/{name}"), schema={{"id": "bigint"}})' for name in "ab")
    (tmp_path / "p.py").write_text(f"from pipeline import rest, source\n\na, b = {urls}\n")
    fetch = tmp_path / ".headwater/spool/of-a-former-definition/20260101T000000-0123abcd"
    fetch.mkdir(parents=True)
    (fetch / "000000.ndjson").write_text("{}\n")
    assert json.loads(headwater("lake", "vacuum", "--json", check=0).stdout) == []
    os.utime(fetch / "000000.ndjson", (0, 0))
    assert "3 bytes can be removed" in headwater("lake", "vacuum", check=0).stdout
    assert json.loads(headwater("lake", "vacuum", "a", "--json", check=0).stdout) == []
    (done,) = json.loads(headwater("lake", "maintain", "--json", check=0).stdout)
    assert (done["table"].endswith(".headwater/spool"), done["removed_files"], done["removed_bytes"]) == (True, 1, 3)
    assert not fetch.exists()
