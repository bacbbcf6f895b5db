"""Forms of commands that people guess: each works, or the error says the right form."""

from __future__ import annotations

import re

import pytest

from cluster.cli.commands import COMMANDS, MEANT
from pipeline.project.project import load
from pipeline.runner.runner import Runner
from tests.rigs.command import environment


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    (folder / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (folder / "p.py").write_text(
        "from pipeline import files, source, sql\n"
        'raw = source(files("data/*.csv"), schema={"id": "bigint"})\n'
        'orders = sql("select id from raw", key="id")\n'
        'other = sql("select id + 1 as id from raw")\n'
    )
    (folder / "data").mkdir()
    for name in ("a", "b"):
        (folder / "data" / f"{name}.csv").write_text(f"id\n{ord(name)}\n")
        Runner(load(folder)).run()
    (folder / "in.csv").write_text("x\n1\n")
    return folder


def shown(headwater_command, folder, *words, code=0):
    done = headwater_command.run(*words, cwd=folder, env=environment(), timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


FORMS = [
    (("run", "orders"), "orders up to date 0.0"),
    (("run", "+orders", "--select", "other"), "nothing new: all 3 are up to date"),
    (("plan", "orders"), "nothing changes"),
    (("lake", "diff", "orders"), "orders version 0 → 1"),
    (("lake", "diff", "orders", "1", "0"), "orders version 1 → 0"),
    (("add", "in.csv", "--name", "first"), "added first to p.py"),
    (("add", "in.csv", "files", "--name", "second"), "added second to p.py"),
]
ERRORS = [
    (("show", "tables"), 1, "'tables' is not defined; .*; `headwater ls` lists all definitions"),
    (("query", "orders"), 1, "'orders' is a table, and not a SELECT; query its rows: from orders"),
    (("add", "files"), 1, r"write headwater add files URI; docs/connectors/files.md shows"),
    (("add", "postgress"), 1, "there is no connector and no file 'postgress'; did you mean 'postgres'"),
    (("add", "none.csv"), 1, "there is no such file"),
    (("plan", "nope"), 1, "'nope' is not defined"),
    (("tables",), 2, "No such command 'tables'. Did you mean 'headwater ls'?"),
    (("diff", "orders"), 2, "Did you mean 'headwater lake diff'?"),
]


@pytest.mark.share(4)
@pytest.mark.parametrize(("words", "expected"), FORMS)
def test_a_form_works(headwater_command, shop, words, expected):
    assert expected in shown(headwater_command, shop, *words)


@pytest.mark.share(4)
@pytest.mark.parametrize(("words", "code", "expected"), ERRORS)
def test_an_error_says_the_right_form(headwater_command, shop, words, code, expected):
    assert re.search(expected, shown(headwater_command, shop, *words, code=code))


def test_commands_that_are_suggested_exist():
    assert not MEANT.keys() & COMMANDS.keys()
    assert {meant.partition(" ")[0] for meant in MEANT.values()} <= COMMANDS.keys()
