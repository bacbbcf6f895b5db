"""The advice in errors of sources and definitions works: each is followed, and the run succeeds."""

from __future__ import annotations

import ast
import gzip
import io
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import HeadwaterError
from pipeline.project.project import load
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.runner.conftest import TOML

ROOT = Path(__file__).parents[2] / "pipeline"
SINKS = {"callback.py", "json_rows.py", "online_store.py"}
ELSEWHERE_TESTED = {
    *("remote.py", "remote_clients.py", "remote_listing.py", "ssh_host_keys.py", "graphql.py", "dlt_resource.py"),
    *("archives.py", "expansion.py", "excel_rows.py", "xml_rows.py", "fixed_width.py", "discovery.py", "definition.py"),
    *("server_url.py", "extension_types.py", "ftp_client.py", "google_storage.py", "manifest.py", "templates.py"),
}
"""Modules of other systems and formats, whose errors are tested beside them: tests/connectors."""
MODULES = [
    *sorted(path for path in (ROOT / "connectors" / "files").rglob("*.py") if path.name not in ELSEWHERE_TESTED),
    *sorted(path for path in (ROOT / "connectors").glob("*.py") if path.name not in SINKS | ELSEWHERE_TESTED),
    *(
        ROOT / name
        for name in (
            "core/definitions.py",
            "core/source_declaration.py",
            "core/event_time.py",
            "runner/decide.py",
            "runner/contracts.py",
        )
    ),
    ROOT / "project/contracts.py",
]
HEAD = "import pyarrow as pa\nfrom pipeline import fail, files, generate, quarantine, source, sql, table, warn\n"
RAW = 'raw = source(files("data/*.csv"))'
Content = dict[str, str | bytes | None]


@dataclass(frozen=True)
class Case:
    """A run that fails, the advice in its error, and the change that follows it."""

    advice: str
    """A part of the error message, which also occurs in the code."""
    text: str = RAW
    files: Content = field(default_factory=lambda: {"f1.csv": "id\n1\n"})
    fix: str | None = None
    """The definitions after following the advice; None: unchanged."""
    put: Content = field(default_factory=dict)
    """The files after following the advice; None removes a file, or a folder (`in/`)."""
    full: bool = False
    before: tuple[str, Content] | None = None
    """Definitions and files of an earlier successful run."""


def raw(*options: str, pattern: str = "data/*.csv", reader: str = "") -> str:
    return f"raw = source({', '.join([f'files({pattern!r}{reader})', *options])})"


ONE, WIDER = {"f1.csv": "id\n1\n"}, {"f2.csv": "id,b\n1,x\n"}
BOTH = {**ONE, **WIDER}
TYPES = 'new_types="evolve"'
ADD, ASIDE = 'new_columns="evolve"', 'new_columns="discard_row"'
ID = 'schema={"id": "bigint"}'
ID_Z = 'schema={"id": "bigint", "z": "bigint"}'
KEPT = "\nkept = sql('select id from raw')"
TIME = 'schema={"id": "bigint", "at": "timestamp"}, event_time="at"'
AT = {"f1.csv": "id,at\n1,2024-01-01\n"}
MS, NUMBERS = 'schema={"id": "bigint", "at": "bigint"}', {"a.csv": "id,at\n1,1704067200000\n"}
TICKS = "\nticks = sql('select id, at from raw', key='id', event_time='T')"
FUNCTION = """
@table()
def kept(raw: pa.Table) -> pa.Table:
    return pa.table({"x": [CAST] * raw.num_rows})
"""


def parquet_with(metadata: dict[str, str]) -> bytes:
    """Return a file of Parquet whose column `id` has metadata."""
    content = io.BytesIO()
    pq.write_table(pa.table({"id": [1]}, schema=pa.schema([pa.field("id", pa.int64(), metadata=metadata)])), content)
    return content.getvalue()


IN = raw(pattern="data/in/*.csv")
PARQUET = raw(pattern="data/*.parquet")
ROWS_DECIDE = FUNCTION.replace("CAST", "1 if 1 in raw['id'].to_pylist() else 'x'")

CASES = [
    Case("name all columns by position: files(…, header=True, names=[…])", files={"a.csv": "v,v\n1,2\n"}, fix=raw(reader=', header=True, names=["v", "w"]')),
    Case("rename one of them where the data is read: rename={", files={"a.csv": "p,P\n1,2\n"}, fix=raw(reader=', rename={"P": "upper"}')),
    Case("rename it where the data is read: rename={", raw(ID), {"a.csv": "ID\n1\n"}, raw(ID, reader=', rename={"ID": "id"}')),
    Case("remove the column from schema=, or its name from rename=", raw(ID_Z, reader=', rename={"z": "y"}'), {"a.csv": "id,z\n1,2\n"}, raw(ID_Z.replace("z", "y"), reader=', rename={"z": "y"}')),
    Case("rename it where the data is read: rename={", files={"a.csv": "id,_source\n1,2\n"}, fix=raw(reader=', rename={"_source": "origin"}')),
    Case('new_columns="evolve") adds new columns', files=BOTH, fix=raw(ADD)),
    Case('new_columns="evolve") adds new columns', raw(ID), BOTH, raw(ID, ADD)),
    Case('new_columns="evolve") adds new columns', files={**WIDER, "f3.csv": "id\n1\n"}, fix=raw(ADD)),
    Case('new_columns="evolve") adds new columns', fix=raw(ADD), before=(RAW, ONE), put={}, files=BOTH),
    Case('"discard_row" quarantines rows with a value in a new column', files=BOTH, fix=raw(ASIDE)),
    Case('"discard_row" quarantines rows with a value in a new column', raw(ID, "stored=False") + KEPT, WIDER, raw(ID, "stored=False", ASIDE) + KEPT),
    Case("remove missing columns from schema=", raw(ID_Z), ONE, raw(ID)),
    Case("remove missing columns from schema=", raw(ID_Z, "stored=False") + KEPT, ONE, raw(ID, "stored=False") + KEPT),
    Case("makes missing ones null", raw(ID_Z), ONE, raw(ID_Z, ADD)),
    Case("end them with line feeds", files={"a.csv": "id\r1\r"}, put={"a.csv": "id\n1\n"}),
    Case("remove it: the first line must name the columns", files={"a.csv": "\nid\n1\n"}, put={"a.csv": "id\n1\n"}),
    Case("pass one name per column", raw(reader=', header=True, names=["a"]'), {"a.csv": "a,b\n1,2\n"}, raw(reader=', header=True, names=["a", "b"]')),
    Case("fix the file; none of it was loaded", raw('schema={"id": "bigint", "n": "varchar"}'), {"a.csv": f"id,n\n1,{'a' * 40_000_000}\n2,b\n"}, put={"a.csv": "id,n\n1,a\n"}),
    Case("write one object per line, or one array of objects", raw(pattern="data/*.json"), {"a.json": "5\n"}, put={"a.json": '[{"id": 1}]'}),
    Case("correct it, or write one object per line: then only invalid lines are rejected", raw(pattern="data/*.json"), {"a.json": '[{"id": 1}\n{"id": 2}'}, put={"a.json": '{"id": 1}\n{"id": 2}'}),
    Case('encoding="windows-1252")', files={"a.csv": "„id“\n1\n".encode("windows-1252")}, fix=raw(reader=', encoding="windows-1252"')),
    Case('encoding="utf-16")', files={"a.csv": "id\n1\n".encode("utf-16")}, fix=raw(reader=', encoding="utf-16"')),
    Case("use an encoding such as 'latin-1', 'windows-1252' or 'utf-16'", raw(reader=', encoding="ansi"'), fix=raw(reader=', encoding="windows-1252"')),
    Case("pass format=, one of ", raw(pattern="data/*"), {"a.xyz": "id\n1\n"}, raw(pattern="data/*", reader=', format="csv"')),
    Case("remove encoding=", raw(reader=', format="parquet", encoding="latin-1"'), fix=RAW),
    Case("pass header=False if the first line is a row", raw(reader=', names=["id"]'), fix=raw(reader=', names=["id"], header=False')),
    Case("header=True if the names replace it", raw(reader=', names=["id"]'), fix=raw(reader=', names=["id"], header=True')),
    Case("check the path", files={}, put=ONE),
    Case("pass required=False if files arrive later", raw(ID), {}, raw(ID, reader=", required=False")),
    Case("create the empty folder", IN, {"in/f1.csv": None, "in/": None}, put={"in/": ""}, before=(IN, {"in/f1.csv": "id\n1\n"})),
    Case("remove it from schema=, or rename it in the data", raw('schema={"_source": "varchar"}'), fix=RAW),
    Case("use a name that is not in the file", raw(reader=", rename={'id': 'v'}"), {"a.csv": "id,v\n1,2\n"}, raw(reader=", rename={'id': 'w'}")),
    Case("pass one name per column", raw(reader=", header=False, names=['a']"), {"a.csv": "1,2\n"}, raw(reader=", header=False, names=['a', 'b']")),
    Case("use [''] if only empty fields are null", raw(reader=", null_values=[]"), fix=raw(reader=", null_values=['']")),
    Case("use [''] if only empty fields are null", raw(reader=", null_values=['a,b']"), fix=raw(reader=", null_values=['NA']")),
    Case("write null_values=['NA']", raw(reader=", null_values='NA'"), fix=raw(reader=", null_values=['NA']")),
    Case("write names=['id']", raw(reader=", names='id', header=False"), {"a.csv": "1\n"}, raw(reader=", names=['id'], header=False")),
    Case("use a different name for each column; names are case-insensitive", raw(reader=', names=["a", "A"], header=False'), {"a.csv": "1,2\n"}, raw(reader=', names=["a", "b"], header=False')),
    Case("give each column a name", raw(reader=', names=["a", ""], header=False'), {"a.csv": "1,2\n"}, raw(reader=', names=["a", "b"], header=False')),
    Case("remove the file, wait for files to be complete", files={**ONE, "e.csv": ""}, put={"e.csv": None}),
    Case("remove the file, wait for files to be complete", files={**ONE, "e.csv": ""}, put={"e.csv": "id\n2\n"}),
    Case('wait for files to be complete with files(…, settled="1 minute")', raw(ID), {"e.csv": ""}, raw(ID, reader=', settled="1 minute"')),
    Case("set such files aside with", RAW, {"a.csv": "", **ONE}, raw('unreadable="quarantine"')),
    Case("set such files aside with", raw(ID), {**ONE, "e.csv": ""}, raw(ID, 'unreadable="quarantine"')),
    Case("check that it is complete, and compressed as its name says", raw(pattern="data/*.csv.gz"), {"a.csv.gz": "id\n1\n"}, put={"a.csv.gz": gzip.compress(b"id\n1\n")}),
    Case("write SQL over `i` and `p`", 'raw = source(generate({"id": "nope"}, count=3), schema={"id": "bigint"})', fix='raw = source(generate({"id": "i * p"}, count=3), schema={"id": "bigint"})'),
    Case("give it an end (count=), limit the rows of a run (most_rows=)", 'raw = source(generate({"id": "i"}), schema={"id": "bigint"})', fix='raw = source(generate({"id": "i"}, count=3), schema={"id": "bigint"})'),
    Case("limit the rows of a run (most_rows=)", 'raw = source(generate({"id": "i"}), schema={"id": "bigint"})', fix='raw = source(generate({"id": "i"}), schema={"id": "bigint"}, most_rows=3)'),
    Case("combine conditions with `and`", raw("expect=[warn(f'w{i}', 'id > 0') for i in range(61)]"), fix=raw("expect=[warn('w', ' and '.join(['id > 0'] * 61))]")),
    Case("choose another name", raw("expect=[warn('w', 'id > 0'), warn('w', 'id > 1')]"), fix=raw("expect=[warn('w', 'id > 0'), warn('x', 'id > 1')]")),
    Case("set sequence_by= to the column that orders the rows of a key", RAW + "\nkept = sql('select id from raw', key='id', apply_as_deletes='id > 3')", fix=RAW + "\nkept = sql('select id, id as s from raw', key='id', apply_as_deletes='id > 3', sequence_by='s')"),
    Case("set key=", RAW + "\nkept = sql('select id, id as s from raw', sequence_by='s')", fix=RAW + "\nkept = sql('select id, id as s from raw', sequence_by='s', key='id')"),
    Case("remove it from key=, or choose another sequence_by=", RAW + "\nkept = sql('select id, id as s from raw', sequence_by='s', key=('id', 's'))", fix=RAW + "\nkept = sql('select id, id as s from raw', sequence_by='s', key='id')"),
    Case("remove stored=False, or set new_columns='discard_row'", raw(ID, ADD, "stored=False") + KEPT, fix=raw(ID, ADD) + KEPT),
    Case("or set new_columns='discard_row'", raw(ID, ADD, "stored=False") + KEPT, fix=raw(ID, ASIDE, "stored=False") + KEPT),
    Case('"discard_value" ignores the column', raw(ID), WIDER, raw(ID, 'new_columns="discard_value"')),
    Case("remove stored=False, or new_types=", raw(ID, TYPES, "stored=False") + KEPT, fix=raw(ID, TYPES) + KEPT),
    Case("remove stored=False, or new_types=", raw(ID, TYPES, "stored=False") + KEPT, fix=raw(ID, "stored=False") + KEPT),
    Case("remove new_types=", f'raw = source(generate({{"id": "i"}}, count=3), {ID}, {TYPES})', fix=f'raw = source(generate({{"id": "i"}}, count=3), {ID})'),
    Case("new_types='discard_row'", raw(ID, 'new_types="freeze"'), {"a.csv": "id\nx\n"}, raw(ID)),
    Case("correct the data or schema=", raw(ID, 'new_types="freeze"'), {"a.csv": "id\nx\n"}, put={"a.csv": "id\n1\n"}),
    Case("declare the type in schema=, for example as decimal(38, 6), and recompute", raw(ID, TYPES), {"b.csv": "id\n0.5\n"}, raw('schema={"id": "decimal(38, 6)"}', TYPES), before=(raw(ID, TYPES), {"a.csv": "id\n9007199254740993\n"}), full=True),
    Case("remove new_columns=", f'raw = source(generate({{"id": "i"}}, count=3), {ID}, {ADD})', fix=f'raw = source(generate({{"id": "i"}}, count=3), {ID})'),
    Case("write the column without the extension type", PARQUET, {"a.parquet": parquet_with({"ARROW:extension:name": "acme.money"})}, put={"a.parquet": parquet_with({})}),
    Case("set key=, partition_by= and expect= on the table that reads it", raw(ID, "stored=False", 'key="id"') + KEPT, fix=raw(ID, "stored=False") + "\nkept = sql('select id from raw', key='id')"),
    Case("set event_time= to a column", raw(ID, 'lateness="1 minute"'), AT, raw(TIME, 'lateness="1 minute"')),
    Case("use a text such as '10 minutes'", raw(TIME, 'lateness="soon"'), AT, raw(TIME, 'lateness="10 minutes"')),
    Case("use at most 100 years", raw(TIME, 'lateness="40000 days"'), AT, raw(TIME, 'lateness="10 minutes"')),
    Case("as BIGINT in schema=", raw('schema={"id": "bigint", "at": "varchar"}, event_time="epoch_ms(at)"'), {"a.csv": "id,at\n1,1704067200000\n"}, raw('schema={"id": "bigint", "at": "bigint"}, event_time="epoch_ms(at)"')),
    Case("or use the column without a function if it is a time", raw(TIME.replace('"at"', '"epoch_ms(at)"').replace('"epoch_ms(at)"', '"at"', 1)), AT, raw(TIME)),
    Case("in the table, and set event_time=", raw(MS) + TICKS.replace("at", "epoch_ms(at)", 1).replace("T", "epoch_ms(at)"), NUMBERS, raw(MS) + TICKS.replace("at", "epoch_ms(at) as at", 1).replace("T", "at")),
    Case("accept them with --full if all data has them", files={"f1.csv": "id,b\n1,x\n"}, before=(RAW, ONE), full=True),
    Case('otherwise set new_columns="evolve" on the source', files={"f1.csv": "id,b\n1,x\n"}, before=(RAW, {**ONE, "f3.csv": "id\n3\n"}), fix=raw(ADD)),
    Case("restore them, or accept the loss with --full", raw("key='id'"), {"f1.csv": None}, before=(RAW, {**ONE, "f2.csv": "id\n2\n"}), put=ONE),
    Case("accept the loss with --full", raw("key='id'"), {"f1.csv": None}, before=(RAW, {**ONE, "f2.csv": "id\n2\n"}), full=True),
    Case("cast them in the definition, or recompute it with --full", RAW + ROWS_DECIDE, {"f2.csv": "id\n2\n"}, RAW + FUNCTION.replace("CAST", "'x'"), before=(RAW + ROWS_DECIDE, ONE)),
    Case("or recompute it with --full", RAW + ROWS_DECIDE, {"f2.csv": "id\n2\n"}, before=(RAW + ROWS_DECIDE, ONE), full=True),
]  # fmt: skip
ELSEWHERE = {
    "pass schema=": "an ArrowReader or a topic without rows: tests/contracts",
    "set schema=": "a source without data: tests/project",
    "read the file as one split": "a run does that by itself: a SplitError",
    "move files into the folder when they are complete": "a file that changes while it is read: tests/faults",
    "run again: a run, and the start of a stream, look for new columns": "streams: tests/streaming/runtime/test_stream_new_columns.py",
    "use offsets": "headwater stream --from a time: tests/streaming/runtime",
    "see ": "a connector of a third party: tests/contracts",
    "restart with --from earliest": "streams: tests/streaming/runtime",
    "increase the retention; to continue with the remaining records": "streams: tests/faults",
    "declare the column as a time in schema=": "streams: tests/streaming/runtime",
    "continue with the remaining records: headwater run --accept-gaps": "Kafka: tests/connectors/kafka/test_kafka_source.py",
}
"""Advice that a run over files cannot follow, and the test that covers it."""


@pytest.mark.share(20)
@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case.advice[:30]}" for n, case in enumerate(CASES)])
def test_advice_of_an_error_works(tmp_path, case):
    folder = tmp_path / "p"
    if case.before is not None:
        run(folder, *case.before)

    with pytest.raises(HeadwaterError) as raised:
        run(folder, case.text, case.files)
    assert case.advice in str(raised.value)

    assert run(folder, case.text if case.fix is None else case.fix, case.put, full=case.full).status == "done"


def test_all_advice_is_tested():
    tried = [case.advice for case in CASES]
    missing = [
        f"{path.name}: {text}"
        for path in MODULES
        for text in advice_in(path)
        if not any(part in text or text in part for part in (*tried, *ELSEWHERE))
        and not any(matches(text, part) for part in tried)
    ]
    assert missing == []


def advice_in(path: Path) -> list[str]:
    """Return the texts of all `do=` in a module, with `…` for interpolated values."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    keywords = (keyword.value for call in calls for keyword in call.keywords if keyword.arg == "do")
    return [text for value in keywords if (text := worded(value))]


def worded(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    if isinstance(value, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in value.values).strip(
            "\0; "
        )
    return ""


def matches(text: str, part: str) -> bool:
    """Return whether a piece of advice can be an instance of a text with gaps."""
    pieces = [piece for piece in text.split("\0") if piece]
    return bool(pieces) and all(piece in part or part in piece for piece in pieces)


def run(folder: Path, text: str, content: Content, *, full: bool = False):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "headwater.toml").write_text(TOML)
    (folder / "shop.py").write_text(f"{HEAD}{text}\n")
    for name, data in content.items():
        path = folder / "data" / name
        if name.endswith("/"):
            path.rmdir() if data is None else path.mkdir()
        elif data is None:
            path.unlink()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return Runner(load(folder), RunOptions(full=full)).run()
