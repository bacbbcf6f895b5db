"""Records what Debezium writes for the changes of a PostgreSQL server: `python -m tests.rigs.debezium.record FOLDER CLASSPATH`.

CLASSPATH is the file that `mvn dependency:build-classpath -Dmdep.outputFile=FILE` writes for pom.xml. The recordings are
the fixtures of the tests of Debezium's formats; their folder is named after the versions.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from benchmarks.postgres import postgres_server
from tests.rigs.postgres import PostgresDatabase

HERE = Path(__file__).parent
TABLES = (
    """create table orders (id int primary key, n numeric(10, 2), free numeric, at timestamp, zoned timestamptz, day date,
    clock time, span interval, bytes bytea, code uuid, doc jsonb, yes boolean, big text, tags text[], kind text)""",
    "alter table orders alter big set storage external",
    "create table plain (id int, name text)",
    "alter table plain replica identity full",
)
ROW = (
    "12.34, 1.5, '2024-02-29 10:00:00.123456', '2024-02-29 10:00:00.123456+00', '2024-02-29', '12:00:00.5', "
    "'1 mon 2 days', '\\x00ff', '00000000-0000-0000-0000-000000000001', '{\"a\": 1}', true, repeat('x', 3000), '{a,b}'"
)
SNAPSHOT = (f"insert into orders values (1, {ROW}, 'first'), (2, {ROW}, 'second')", "insert into plain values (1, 'a')")
CHANGES = (
    f"insert into orders values (3, {ROW}, 'third')",
    "update orders set kind = 'changed' where id = 1",
    "update orders set big = 'small', n = -0.05 where id = 1",
    "update orders set id = 20 where id = 2",
    "delete from orders where id = 3",
    "insert into orders (id, kind) values (4, 'a'), (5, 'b'), (6, null)",
    "update plain set name = 'b'",
    "alter table orders add column extra int",
    "insert into orders (id, extra) values (7, 70)",
    "truncate plain",
    "insert into plain values (2, 'c')",
)
FORMS = {
    "json": {},
    "json-with-schema": {"converter.schemas.enable": "true"},
    "json-decimals-as-text": {"decimal.handling.mode": "string", "provide.transaction.metadata": "false"},
    "unwrapped": {
        "transforms": "unwrap",
        "transforms.unwrap.type": "io.debezium.transforms.ExtractNewRecordState",
        "transforms.unwrap.delete.tombstone.handling.mode": "rewrite",
        "transforms.unwrap.add.fields": "op,lsn,source.ts_us,source.sequence",
        "provide.transaction.metadata": "false",
    },
}
_WAIT_S = 90


def record(server: str, classpath: str, form: str, target: Path) -> None:
    """Write the recording of one form."""
    database, name = PostgresDatabase(server), f"dbz_{uuid.uuid4().hex[:8]}"
    database.run(*TABLES, *SNAPSHOT)
    host, _, port = server.rpartition("/")[0].rpartition("@")[2].partition(":")
    with tempfile.TemporaryDirectory() as folder:
        properties = {
            "name": "recorder",
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
            "offset.storage.file.filename": f"{folder}/offsets",
            "offset.flush.interval.ms": "1000",
            "database.hostname": host,
            "database.port": port,
            "database.user": "headwater",
            "database.password": "x",
            "database.dbname": database.name,
            "topic.prefix": "shop",
            "plugin.name": "pgoutput",
            "slot.name": name,
            "publication.name": name,
            "publication.autocreate.mode": "filtered",
            "table.include.list": "public.orders,public.plain",
            "skipped.operations": "none",
            "provide.transaction.metadata": "true",
            "slot.drop.on.stop": "true",
            "converter.schemas.enable": "false",
            **FORMS[form],
        }
        path, out = Path(folder) / "recorder.properties", Path(folder) / "out"
        path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        command = ["java", "-cp", f"{classpath}:{folder}", "Recorder", str(path), str(out)]
        subprocess.run(["javac", "-cp", classpath, "-d", folder, str(HERE / "Recorder.java")], check=True)
        with Path(folder, "log").open("w") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
            try:
                _wait(out, "first", '"second"')
                time.sleep(3)
                database.run(*CHANGES)
                _wait(out, "last", '"name":"c"')
                time.sleep(2)
            except TimeoutError as error:
                raise RuntimeError(Path(folder, "log").read_text()[-3000:]) from error
            finally:
                process.communicate(b"", timeout=60)
        lines = [line for line in out.read_text().splitlines() if not line.startswith("shop.transaction")]
        target.write_text("\n".join(lines).replace(database.name, "shop").replace("x" * 3000, "x" * 30) + "\n")


def _wait(out: Path, what: str, text: str) -> None:
    until = time.monotonic() + _WAIT_S
    while not (out.exists() and text in out.read_text()):
        if time.monotonic() > until:
            raise TimeoutError(what)
        time.sleep(0.5)


if __name__ == "__main__":
    folder, classpath = Path(sys.argv[1]), Path(sys.argv[2]).read_text().strip()
    folder.mkdir(parents=True, exist_ok=True)
    with postgres_server() as url:
        for form in FORMS:
            record(url, classpath, form, folder / f"{form}.tsv")
