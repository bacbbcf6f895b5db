"""`Project.dataset`: rows of a pinned version; columns and files that are not needed are not read."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.data.expressions import col

from pipeline.core.errors import RequestError, StorageError
from pipeline.lake.versions import commit_times
from pipeline.project import Project, Workspace, load
from pipeline.runner import Runner
from tests.rigs.weed import BUCKET, SECRET, credentials

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(180),
    # Ray's settings class sets options that Ray itself deprecates
    pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning"),
]
DEFINITIONS = """\
from pipeline import files, source, sql

raw_orders = source(files("data/*.csv"), schema={"id": "bigint", "region": "varchar", "amount": "double"})
orders = sql("select id, region, amount, 'note ' || id as note from raw_orders", partition_by="region")
later = sql("select id from orders")
"""
REGIONS = ("east", "north", "south")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield
        ray.shutdown()
    cluster.shutdown()


def write(folder: Path, number: int) -> None:
    """Write 30 orders, ten of each region: ids 0 to 29 in the first file."""
    ids = range(number * 30, number * 30 + 30)
    rows = [f"{i},{REGIONS[i % 3]},{i / 2}" for i in ids]
    (folder / "data" / f"{number}.csv").write_text("\n".join(["id,region,amount", *rows]) + "\n")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose `orders` has 30 rows in version 0 and 60 in version 1, in one file per region and version."""
    monkeypatch.setenv("HEADWATER_EXECUTION", "inline")
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(DEFINITIONS)
    (tmp_path / "data").mkdir()
    for number in range(2):
        write(tmp_path, number)
        Runner(load(tmp_path), observer=lambda _: None).run()
    return load(tmp_path)


def file_of(project: Project, region: str, number: int) -> Path:
    """Return a region's file that was added in a version."""
    table = Workspace(project).table("orders")
    known = set() if number == 0 else {file.uri for file in table.version(0).files}
    return next(Path(f.uri) for f in table.version(number).files if f.uri not in known and f"region={region}" in f.uri)


def test_a_dataset_has_the_rows_of_its_version(project):
    newest, first = project.dataset("orders"), project.dataset("orders", version=0)
    time = commit_times(Workspace(project).table("orders").storage)[0]
    assert project.dataset("orders", at=time).count() == 30

    assert (newest.count(), first.count()) == (60, 30)
    rows = sorted(newest.take_all(), key=lambda row: row["id"])
    assert rows[4] == {"id": 4, "region": "north", "amount": 2.0, "note": "note 4"}
    assert sorted(row["id"] for row in first.take_all()) == list(range(30))

    (project.settings.root / "data" / "0.csv").unlink()
    Runner(project).run()
    write(project.settings.root, 2)
    Runner(project).run()
    assert newest.count() == 60
    assert project.dataset("orders").count() > 60


def test_only_selected_columns_are_read(project):
    for number in range(2):
        for region in REGIONS:
            path = file_of(project, region, number)
            group = pq.ParquetFile(path).metadata.row_group(0)
            column = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "note")
            content = bytearray(path.read_bytes())
            begin = column.dictionary_page_offset or column.data_page_offset
            content[begin : begin + column.total_compressed_size] = b"\xff" * column.total_compressed_size
            path.write_bytes(content)

    selected = project.dataset("orders").select_columns(["id", "amount"])
    chosen = project.dataset("orders", columns=["amount", "id"])

    assert chosen.schema().names == ["amount", "id"]
    assert sorted(row["id"] for row in selected.take_all()) == list(range(60))
    assert {tuple(row) for row in chosen.take_all()} == {("amount", "id")}
    assert project.dataset("orders").filter(expr=col("amount") >= 29).select_columns(["id"]).take_all() == [
        {"id": 58},
        {"id": 59},
    ]
    with pytest.raises(Exception, match="don't know what type"):
        project.dataset("orders", columns=["note"]).take_all()


def test_files_without_matching_rows_are_not_opened(project):
    for region in ("east", "south"):
        for number in range(2):
            file_of(project, region, number).unlink()
    file_of(project, "north", 1).unlink()

    pushed = project.dataset("orders").filter(expr=(col("id") < 30) & (col("region") == "north"))
    by_sql = project.dataset("orders", where="region = 'north' and id < 30 and amount > 10")

    assert sorted(row["id"] for row in pushed.take_all()) == list(range(1, 30, 3))
    assert pushed.count() == 10
    assert len(pushed.input_files()) == 1
    assert sorted(row["id"] for row in by_sql.take_all()) == [22, 25, 28]
    with pytest.raises(Exception, match="No files found"):
        project.dataset("orders", where="id >= 30").take_all()


@pytest.mark.parametrize("read_before", [False, True])
def test_the_rows_of_a_filtered_dataset_are_counted(project, read_before):
    for dataset in (
        project.dataset("orders", where="amount >= 10"),
        project.dataset("orders", columns=["region"], where="amount >= 10"),
        project.dataset("orders").filter(expr=col("amount") >= 10),
        project.dataset("orders").filter(expr=col("amount") >= 10).select_columns(["note"]),
    ):
        if read_before:
            assert len(dataset.take_all()) == 40
        assert dataset.count() == 40


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"version": "0"}, "version='0'"),
        ({"version": True}, "version=True"),
        ({"columns": "id"}, r"columns='id'; pass a list: columns=\['id'\]"),
        ({"where": " "}, "an empty where="),
    ],
)
def test_arguments_of_another_type_are_named(project, arguments, named):
    with pytest.raises(RequestError, match=f"table 'orders' cannot be read as a dataset: got {named}"):
        project.dataset("orders", **arguments)


def test_no_matching_rows_keep_the_columns(project):
    none = project.dataset("orders", where="id < 0")

    assert none.count() == 0
    assert none.schema().names == ["id", "region", "amount", "note"]
    assert none.to_pandas().empty


def test_columns_added_later_are_null_in_earlier_files(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "w"\ndefinitions = "w.py"\n')
    (tmp_path / "w.py").write_text(
        'from pipeline import files, source\nraw = source(files("*.csv"), new_columns="evolve")\n'
    )
    for number, text in enumerate(("a\n1\n", "a,b\n2,x\n")):
        (tmp_path / f"{number}.csv").write_text(text)
        Runner(load(tmp_path)).run()

    dataset = load(tmp_path).dataset("raw", columns=["a", "b"])

    assert sorted(dataset.take_all(), key=lambda row: row["a"]) == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]
    assert dataset.filter(expr=col("b").is_null()).take_all() == [{"a": 1, "b": None}]
    assert load(tmp_path).dataset("raw", version=0).schema().names[0] == "a"
    assert "b" not in load(tmp_path).dataset("raw", version=0).schema().names


@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        ("ordes", {}, RequestError, r"'ordes' is not defined; did you mean 'orders'\? \(.*shop\.py\)"),
        ("orders", {"version": 7}, RequestError, r"'orders' has no version 7; the newest is 1 \(.*shop\.py:4\)"),
        ("orders", {"version": -1}, RequestError, r"'orders' has no version -1; the newest is 1"),
        ("orders", {"columns": ["amout"]}, RequestError, r"no column 'amout'; did you mean 'amount'\? \(.*shop\.py:4\)"),
        ("orders", {"where": "amout > 1"}, RequestError, r"cannot be filtered by 'amout > 1': got .*amout.*\(.*shop\.py:4\)"),
        ("orders", {"where": "amount >"}, RequestError, r"cannot be filtered by 'amount >'"),
        ("orders", {"where": "id = (select 1)"}, RequestError, "must not contain a subquery"),
        ("orders", {"where": "count(*) > 1"}, RequestError, "must not contain .* aggregate"),
    ],
    ids=["table", "version", "negative", "column", "where", "syntax", "subquery", "aggregate"],
)  # fmt: skip
def test_unknown_names_are_named_with_their_place(project, name, options, kind, message):
    with pytest.raises(kind, match=message):
        project.dataset(name, **options)


def test_a_table_that_does_not_exist_yet(project):
    (project.settings.root / "shop.py").write_text(DEFINITIONS + 'new = sql("select id from orders")\n')
    changed = load(project.settings.root)

    with pytest.raises(StorageError, match=r"'new' does not exist yet; run `headwater run --select \+new`"):
        changed.dataset("new")
    with pytest.raises(RequestError, match="'new' has no version 0; it has none yet"):
        changed.dataset("new", version=0)


def test_unknown_columns_of_the_dataset_are_named(project):
    with pytest.raises(Exception, match="amout"):
        project.dataset("orders").select_columns(["amout"]).take_all()


def test_datasets_of_a_lake_in_an_object_store(tmp_path, s3):
    options = "".join(f'{name} = "{value}"\n' for name, value in credentials(s3.endpoint).items())
    options = options.replace(f'"{SECRET}"', f'"${{file:{tmp_path / "secret"}}}"')
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "headwater.toml").write_text(
        '[project]\nname = "w"\ndefinitions = "w.py"\n'
        f'[env.dev]\nlake = "s3://{BUCKET}/{uuid.uuid4().hex}"\n[env.dev.storage]\n{options}'
    )
    (tmp_path / "w.py").write_text(
        "import ray.data\nfrom pipeline import files, source, table\n"
        'raw = source(files("*.csv"), schema={"id": "bigint"})\n'
        "@table(key='id')\ndef twice(raw: ray.data.Dataset) -> ray.data.Dataset:\n"
        "    return raw.select_columns(['id']).map(lambda row: {'id': row['id'] * 2})\n"
    )
    (tmp_path / "0.csv").write_text("id\n1\n2\n")
    Runner(load(tmp_path)).run()
    workspace = Workspace(load(tmp_path))

    assert load(tmp_path).dataset("twice", where="id > 2").take_all() == [{"id": 4}]
    assert [name for name in workspace.lake.storage.names() if name.endswith(".arrow")] == []
