"""`headwater discover` looks at a system, and `headwater add` writes a definition that runs."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.connectors.built_in import BUILT_IN
from pipeline.connectors.discovery import system
from pipeline.connectors.templates import TEMPLATES
from pipeline.core.errors import RequestError
from pipeline.core.settings import load as load_settings
from pipeline.project.additions import add_definition
from pipeline.project.project import load
from tests.rigs.postgres import pg as pg  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import pg_database as pg_database  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414 - the fixture


@pytest.fixture
def shop(tmp_path):
    with closing(sqlite3.connect(tmp_path / "shop.db")) as con:
        con.execute("create table orders (id integer primary key, email text, updated_at text)")
        rows = [(n, f"u{n}@example.com", f"2026-01-0{n % 9 + 1}") for n in range(20)]
        con.executemany("insert into orders values (?, ?, ?)", rows)
        con.execute("create table items (id integer primary key)")
        con.commit()
    return tmp_path / "shop.db"


def test_a_look_as_text_json_python_and_what_changed(headwater, shop, tmp_path):
    text = headwater("discover", "shop.db", check=0).stdout
    assert "key: id (declared)" in text
    assert "very likely: e-mail address" in text
    look = json.loads(headwater("discover", "shop.db", "--json", check=0).stdout)
    assert [each["name"] for each in look["objects"]] == ["items", "orders"]
    code = headwater("discover", "shop.db", "--table", "orders", "--python", check=0).stdout
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102 - what is tested
    assert names["raw_orders"].schema.names == ("id", "email", "updated_at")

    (tmp_path / "look.json").write_text(json.dumps(look))
    assert headwater("discover", "shop.db", "--compare", "look.json", check=0).stdout == "nothing changed\n"
    with closing(sqlite3.connect(shop)) as con:
        con.execute("alter table orders add column total real")
    changed = headwater("discover", "shop.db", "--compare", "look.json", "--json", check=0).stdout
    assert json.loads(changed) == {"changes": ["orders: new column 'total'"]}


def test_a_look_is_kept_in_the_project(headwater, shop, teashop):
    words = ("discover", "../shop.db", "--since-last")
    assert headwater(*words, cwd=teashop, check=0).stdout == "there was no earlier look; this one is kept\n"
    assert headwater(*words, cwd=teashop, check=0).stdout == "nothing changed\n"
    with closing(sqlite3.connect(shop)) as con:
        con.execute("create table more (id integer)")
    assert headwater(*words, cwd=teashop, check=0).stdout == "new table: more\n"
    assert json.loads(headwater(*words, "--json", cwd=teashop, check=0).stdout) == {"changes": []}
    [kept] = (teashop / ".headwater" / "looks").iterdir()
    for damaged in ("{", json.dumps({"format": 0})):
        kept.write_text(damaged)
        process = headwater(*words, cwd=teashop, check=0)
        assert process.stdout == "there was no earlier look; this one is kept\n"
        assert "the earlier look is not used: " in process.stderr
        assert headwater(*words, cwd=teashop, check=0).stdout == "nothing changed\n"
    (teashop / ".headwater" / "looks").rename(teashop / ".headwater" / "old")
    (teashop / ".headwater" / "looks").write_text("")
    assert "the look cannot be kept in" in headwater(*words, cwd=teashop, check=1).stderr
    assert "headwater.toml" in headwater("discover", "shop.db", "--since-last", check=1).stderr


@pytest.mark.usefixtures("shop")
def test_wrong_options(headwater, tmp_path):
    (tmp_path / "wrong.json").write_text("{}")
    for words, problem in (
        (("--option", "region"), "an option is written NAME=VALUE: got 'region'"),
        (("--compare", "none.json"), "none.json cannot be read"),
        (("--compare", "wrong.json"), "wrong.json is not a look of this version"),
    ):
        assert problem in headwater("discover", "shop.db", *words, check=1).stderr


@pytest.mark.usefixtures("shop")
def test_a_definition_is_added_and_runs(headwater, teashop):
    before = (teashop / "teashop.py").read_text()
    words = ("add", "sqlite", "../shop.db", "--table", "orders", "--name", "raw_online", "--cursor", "updated_at")
    assert "added raw_online to teashop.py" in headwater(*words, cwd=teashop, check=0).stdout
    after = (teashop / "teashop.py").read_text()
    assert 'sqlite("../shop.db", "orders", cursor="updated_at")' in after
    assert after.replace("from pipeline import sqlite\n", "").startswith(before)

    headwater("run", "--select", "raw_online", cwd=teashop, check=0)
    rows = headwater("query", "select count(*) as n from raw_online", "--json", cwd=teashop, check=0).stdout
    assert json.loads(rows) == [{"n": 20}]
    assert "already defines 'raw_online'" in headwater(*words, cwd=teashop, check=1).stderr


def test_a_table_of_a_server_is_added_with_its_password_by_reference(headwater, pg, teashop):
    pg.run(
        "create schema other",
        "create table orders (id bigint primary key, at timestamptz)",
        "create table other.items (id int)",
        "create table items (id int)",
        "insert into orders values (1, now())",
    )
    env = {"SHOP_PASSWORD": "hunter2"}
    words = ("--table", "orders", "--name", "raw_sales", "--password", "env:SHOP_PASSWORD")
    headwater("add", "postgres", pg.url, *words, cwd=teashop, env=env, check=0)
    text = (teashop / "teashop.py").read_text()
    assert f'postgres("{pg.url}", "public.orders", password="env:SHOP_PASSWORD")' in text
    assert "hunter2" not in text
    headwater("run", "--select", "raw_sales", cwd=teashop, env=env, check=0)
    several = headwater("add", "postgres", pg.url, "--table", "items", cwd=teashop, check=1).stderr
    assert "there are 2 objects at postgresql://" in several
    literal = headwater("add", "postgres", pg.url, "--password", "hunter2", cwd=teashop, check=1)
    assert "password= must be a reference" in literal.stderr
    assert "hunter2" not in literal.stderr


WRONG = (
    (("sqlit", "../shop.db"), "there is no connector 'sqlit'; did you mean 'sqlite'?"),
    (("sqlite", "sqlite:///../shop.db"), "there are 2 objects at sqlite://"),
    (("kafka", "../shop.db"), "kafka(…) reads nothing that is at sqlite://"),
    (("sqlite", "../shop.db"), "there are 2 objects at sqlite://"),
    (("sqlite", "../shop.db", "--table", "orders", "--name", "a b"), "'a b' is not a name of a definition"),
    (("sqlite", "../shop.db", "--table", "orders", "--cursor", "at"), "there is no column 'at'"),
    (("files", "../empty.ndjson"), "'empty.ndjson' cannot be looked at"),
    (("postgres", "postgresql://u:hunter2@127.0.0.1/x"), "contains a password"),
    (("replay", "orders"), "replay(…) reads no system that could be added; write its definition, as docs/connectors/"),
    (("sqlite",), "sqlite(…) is a connector, and it is not said what it reads; write headwater add sqlite URI"),
    (("kinesis", "clicks", "--table", "orders"), "this connector has no place for --table: got 'orders'; leave it out"),
    (("generate", "x"), "this connector has no place for a URI: got 'x'; leave it out"),
    (("mqtt", "--cursor", "at"), "mqtt(…) is added as a template, without --cursor and --option"),
    (
        ("mqtt", "mqtts://u:hunter2@broker:8883"),
        "the URI contains a password; pass it by reference: --password env:NAME",
    ),
    (("mqtt", "--name", "a b"), "'a b' is not a name of a definition"),
    (("mqtt", "tcp://broker:1"), "the URL of an MQTT broker is not known"),
)


@pytest.mark.share(3)
@pytest.mark.parametrize(("words", "problem"), WRONG)
def test_what_cannot_be_added(headwater, shop, teashop, words, problem):
    before = (teashop / "teashop.py").read_text()
    (shop.parent / "empty.ndjson").write_text("")

    result = headwater("add", *words, cwd=teashop, check=1)

    assert problem in result.stderr
    assert "hunter2" not in result.stderr
    assert (teashop / "teashop.py").read_text() == before


def test_a_template_is_added_for_what_cannot_be_looked_at(headwater, teashop):
    words = ("mqtt", "mqtts://broker:8883", "--table", "plant/#", "--password", "env:MQTT_PASSWORD")
    shown = headwater("add", *words, cwd=teashop, check=0).stdout
    assert "added raw_mqtt to teashop.py; correct its columns and its options, which docs/connectors/mqtt.md" in shown
    text = (teashop / "teashop.py").read_text()
    assert 'mqtt("plant/#", client_id="headwater-raw_mqtt", url="mqtts://broker:8883", user="reader"' in text
    assert 'password="env:MQTT_PASSWORD"' in text
    assert "\nfrom pipeline import mqtt\n" in f"\n{text}"


def test_all_templates_load(tmp_path):
    connectors = {connector.name for connector in BUILT_IN if not connector.is_discoverable}
    assert TEMPLATES.keys() == connectors - {"replay"}  # a replay reads a table of the project
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "defs"\n')
    (tmp_path / "defs").mkdir()
    (tmp_path / "defs" / "__init__.py").write_text("")
    settings = load_settings(tmp_path / "headwater.toml")
    for name, template in TEMPLATES.items():
        code = template.filled(f"raw_{name}", None, None, None)
        add_definition(settings, f"raw_{name}", (*template.functions, name), code)
        assert re.search(r"\{(uri|table|name|password)\}", code) is None

    project = load(tmp_path)

    assert {f"raw_{name}" for name in TEMPLATES} <= set(project.graph.names)


@pytest.mark.usefixtures("shop")
def test_a_package_gets_a_new_file(headwater, tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "defs"\n')
    (tmp_path / "defs").mkdir()
    (tmp_path / "defs" / "__init__.py").write_text("")
    headwater("add", "sqlite", "shop.db", "--table", "orders", check=0)
    assert (tmp_path / "defs" / "raw_orders.py").read_text().startswith("from pipeline import source, sqlite\n")
    headwater("add", "sqlite", "shop.db", "--table", "items", check=0)
    (tmp_path / "defs" / "raw_third.py").write_text("")
    words = ("add", "sqlite", "shop.db", "--table", "items", "--name", "raw_third")
    assert "the file raw_third.py already exists" in headwater(*words, check=1).stderr


def test_a_definition_that_cannot_be_loaded_is_not_kept(teashop):
    settings = load_settings(teashop / "headwater.toml")
    before = settings.definitions.read_text()
    with pytest.raises(RequestError, match="already defines 'orders'"):
        add_definition(settings, "orders", ("source",), "orders = source(1)\n")
    with pytest.raises(Exception, match="cannot be imported"):
        add_definition(settings, "x", ("source",), "x = source(undefined_name)\n")
    assert settings.definitions.read_text() == before


def test_connectors_that_a_look_finds():
    """Those that the modules of looks import or name in quotes."""
    texts = [path.read_text() for path in Path(system.__file__).parent.glob("*.py") if path.name != "system.py"]
    named = {name for text in texts for name in re.findall(r'"(\w+)"', text)}
    imported = {
        name for text in texts for line in re.findall(r" import (.*)", text) for name in re.findall(r"\w+", line)
    }

    discoverable = {connector.name for connector in BUILT_IN if connector.is_discoverable}
    assert {connector.name for connector in BUILT_IN} & (named | imported) == discoverable
