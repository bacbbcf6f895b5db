"""Credentials are in no file of a project and in no output, whether its runs succeed or fail."""

from __future__ import annotations

import duckdb
import pytest

from tests.rigs.command import environment
from tests.rigs.http_faults import Received, Reply, http_server
from tests.rigs.postgres import pg as pg  # noqa: PLC0414 - the fixtures
from tests.rigs.postgres import pg_database as pg_database  # noqa: PLC0414
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414

SECRETS = {name: f"{name.lower()}-s3cret-0815" for name in ("PG_PASSWORD", "API_TOKEN", "API_KEY")}
DEFINITIONS = """
from pipeline import postgres, postgres_changes, rest, source, sql
from pipeline.connectors.rest import ApiKey, Bearer

items = source(postgres("{pg}", "items", cursor="id", password="env:PG_PASSWORD"))
changes = source(postgres_changes("{pg}", "items", slot="secrets", password="env:PG_PASSWORD").table("items"))
answers = source(rest("{api}/answers", rows="$.rows", auth=Bearer("env:API_TOKEN"), headers={{"X-Key": "env:API_KEY"}}))
more = source(rest("{api}/more", rows="$.rows", auth=ApiKey("env:API_KEY", parameter="key")))
kept = sql("select items.id from items join answers using (id)", key="id")
"""
COMMANDS = (
    ("run", "-vv"),
    ("explain",),
    ("lineage", "kept"),
    ("report",),
    ("sources", "--json"),
    ("doctor",),
)


@pytest.mark.share(1)
@pytest.mark.parametrize("fails", [False, True])
def test_credentials_are_nowhere(tmp_path, pg, headwater_command, fails):
    pg.run(
        "create table items (id bigint primary key, v text)",
        "insert into items select i, 'v' from generate_series(1, 9) i",
    )
    url = f"{pg.url}_missing" if fails else pg.url
    (tmp_path / "headwater.toml").write_text('[project]\nname = "all"\ndefinitions = "all.py"\n[env.dev]\n')
    printed = []
    with http_server() as api:
        (tmp_path / "all.py").write_text(DEFINITIONS.format(pg=url, api=api.url))

        def answer(received: Received) -> Reply:
            echo = {"headers": dict(received.headers), "params": dict(received.params)}
            return Reply(echo, 403) if fails else Reply({"rows": [{"id": 1}]})

        api.routes = {"/answers": answer, "/more": answer}
        for words in COMMANDS:
            done = headwater_command.run(*words, cwd=tmp_path, env=environment(SECRETS), timeout=240)
            printed.append(done.stdout + done.stderr)
        sent = " ".join(f"{received.headers} {received.params}" for received in api.received)
    if not fails:
        pg.run("select pg_drop_replication_slot('secrets')")
    assert SECRETS["API_TOKEN"] in sent
    assert SECRETS["API_KEY"] in sent
    contents = {"output": "\n".join(printed).encode()}
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        contents[str(path)] = path.read_bytes()
        if path.suffix == ".parquet":
            contents[f"{path} decoded"] = str(duckdb.sql(f"from read_parquet('{path}')").fetchall()).encode()
    assert len(contents) > (10 if not fails else 2)
    found = [
        (name, secret)
        for name, content in contents.items()
        for secret in SECRETS.values()
        if secret.encode() in content
    ]
    assert found == []
