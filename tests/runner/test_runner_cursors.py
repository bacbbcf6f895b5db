"""Runs continue from the cursor of the last commit: Kafka, replayed tables, generated rows, moved projects."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from pipeline import replay
from pipeline.core.clock import now
from pipeline.core.errors import DefinitionError, RequestError, SourceError, StorageError
from pipeline.core.staging import Manifest
from pipeline.project import Workspace, load
from pipeline.runner import Runner, RunOptions

TOML = '[project]\nname = "p"\ndefinitions = "p.py"\n'


@pytest.fixture
def project(tmp_path):
    """Write the definitions of a project, and return its folder."""

    def write(text: str) -> Path:
        folder = tmp_path / "project"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "headwater.toml").write_text(TOML)
        (folder / "p.py").write_text("from pipeline import files, generate, kafka, replay, source, sql\n" + text)
        return folder

    return write


def run(folder: Path, **options: object) -> dict[str, tuple[str, str]]:
    record = Runner(load(folder), RunOptions(**options)).run()
    return {step.name: (step.decision, step.reason) for step in record.steps}


def ids(folder: Path, table: str = "rows") -> list[int]:
    return Workspace(load(folder)).query(f"select id from {table} order by id").column("id").to_pylist()


class Topic:
    def __init__(self, cluster) -> None:
        self.name, self._cluster = f"cursors-{uuid.uuid4().hex[:8]}", cluster
        self._producer = Producer({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
        cluster.create_topic(self.name, 2)
        self.reader = f"kafka({self.name!r}, servers={cluster.bootstrap!r})"

    def send(self, numbers) -> None:
        for number in numbers:
            self._producer.produce(self.name, json.dumps({"id": number}), partition=number % 2)
        assert self._producer.flush(20) == 0

    def make_anew(self) -> None:
        admin = AdminClient({"bootstrap.servers": self._cluster.bootstrap, "log_level": 0})
        for future in admin.delete_topics([self.name]).values():
            future.result(20)
        self._cluster.create_topic(self.name, 2)

    def forget(self, partition: int, before: int) -> None:
        from confluent_kafka import TopicPartition  # noqa: PLC0415

        admin = AdminClient({"bootstrap.servers": self._cluster.bootstrap, "log_level": 0})
        for future in admin.delete_records([TopicPartition(self.name, partition, before)]).values():
            future.result(20)


@pytest.fixture
def topic(kafka) -> Topic:
    return Topic(kafka)


@pytest.mark.share(1)
@pytest.mark.parametrize("stored", [True, False])
def test_kafka_run_reads_records_since_the_last_run(project, topic, stored):
    folder = project(
        f'raw = source({topic.reader}, schema={{"id": "bigint"}}, stored={stored})\nrows = sql("select id from raw")\n'
    )
    topic.send(range(10))
    run(folder)
    assert ids(folder) == list(range(10))
    assert run(folder)["rows"][0] == "skip"

    topic.send(range(10, 25))
    assert run(folder)["rows" if not stored else "raw"] == ("append", "15 new offsets")
    assert ids(folder) == list(range(25))
    assert {decision for decision, _ in run(folder).values()} == {"skip"}
    run(folder, full=True)
    assert ids(folder) == list(range(25))


def test_limit_applies_to_one_run(project, topic):
    folder = project(f'rows = source({topic.reader}, schema={{"id": "bigint"}}, most_rows=4)\n')
    topic.send(range(10))
    reasons = [run(folder)["rows"] for _ in range(4)]

    assert [decision for decision, _ in reasons] == ["create", "append", "append", "skip"]
    assert reasons[1][1] == "4 new offsets, more are left"
    assert ids(folder) == list(range(10))


def test_recreated_topic_is_not_read_silently(project, topic):
    folder = project(f'rows = source({topic.reader}, schema={{"id": "bigint"}})\n')
    topic.send(range(10))
    run(folder)
    topic.make_anew()
    topic.send(range(100, 104))

    with pytest.raises(SourceError, match=r"was deleted and recreated\), which would lose rows.*--full"):
        run(folder)
    assert ids(folder) == list(range(10))
    run(folder, full=True)
    assert ids(folder) == [100, 101, 102, 103]


def test_gap_from_retention_is_reported_and_can_be_accepted(project, topic):
    folder = project(f'rows = source({topic.reader}, schema={{"id": "bigint"}})\n')
    topic.send(range(10))
    run(folder)
    topic.send(range(10, 20))
    topic.forget(1, 8)

    with pytest.raises(SourceError, match=r"offsets 5 to 7 of kafka://.*/1; continue with .*--accept-gaps"):
        run(folder)
    assert ids(folder) == list(range(10))
    assert run(folder, accept_gaps=True)["rows"][0] == "append"
    assert ids(folder) == [*range(10), 10, 12, 14, 16, 17, 18, 19]
    assert run(folder)["rows"][0] == "skip"
    manifest = Workspace(load(folder)).require("rows").manifest
    assert [(gap.begin, gap.end) for gap in manifest.gaps] == [(5, 8)]
    topic.send([20])
    run(folder)
    assert len(Workspace(load(folder)).require("rows").manifest.gaps) == 1


def test_changed_replayed_table_is_read_again(project):
    folder = project(
        'raw = source(files("data/*.csv"), schema={"id": "bigint"})\n'
        'told = source(replay("raw", by="id"), schema={"id": "bigint"}, stored=False)\n'
        'rows = sql("select id from told")\n'
    )
    (folder / "data" / "a.csv").write_text("id\n2\n1\n")
    run(folder)
    assert ids(folder) == [1, 2]
    assert run(folder)["rows"] == ("skip", "nothing new")

    (folder / "data" / "b.csv").write_text("id\n3\n")
    assert run(folder)["rows"] == ("rebuild", "'raw' changed")
    assert ids(folder) == [1, 2, 3]


@pytest.mark.parametrize("at", ["0", "'{time}'"])
def test_a_version_is_replayed_whatever_comes_later(project, at):
    raw = 'raw = source(files("data/*.csv"), schema={"id": "bigint"})\n'
    folder = project(raw)
    (folder / "data" / "a.csv").write_text("id\n2\n1\n")
    run(folder)
    told = f'replay("raw", by="id", at={at.format(time=now().isoformat())})'
    (folder / "data" / "b.csv").write_text("id\n3\n")
    run(folder)

    project(f'{raw}told = source({told}, schema={{"id": "bigint"}}, stored=False)\nrows = sql("select id from told")\n')
    run(folder)
    (folder / "data" / "c.csv").write_text("id\n4\n")

    assert run(folder)["rows"] == ("skip", "nothing new")
    assert (ids(folder), ids(folder, "raw")) == ([1, 2], [1, 2, 3, 4])


def test_a_version_to_replay_must_be_one(project):
    with pytest.raises(DefinitionError, match="at= is not a time: got 'then'; write a time like"):
        replay("raw", by="id", at="then")
    folder = project(
        'raw = source(files("data/*.csv"), schema={"id": "bigint"})\n'
        'rows = source(replay("raw", by="id", at=7), schema={"id": "bigint"})\n'
    )
    (folder / "data" / "a.csv").write_text("id\n2\n1\n")
    with pytest.raises(RequestError, match="table 'raw' has no version 7; the newest is 0"):
        run(folder)


def test_bounded_generated_rows(project):
    folder = project('rows = source(generate({"id": "i"}, count=5), schema={"id": "bigint"})\n')
    run(folder)
    assert ids(folder) == list(range(5))
    assert run(folder)["rows"] == ("skip", "nothing new")


def test_unbounded_generated_rows_need_a_limit(project):
    folder = project('rows = source(generate({"id": "i"}), schema={"id": "bigint"})\n')
    with pytest.raises(SourceError, match=r"no end.*most_rows="):
        run(folder)
    folder = project('rows = source(generate({"id": "i"}), schema={"id": "bigint"}, most_rows=3)\n')
    run(folder)
    assert ids(folder) == [0, 1, 2]


@pytest.mark.parametrize("how", ["move", "copy"])
def test_moved_project_has_nothing_new(project, tmp_path, how):
    folder = project(
        "from pathlib import Path\n"
        'rows = source(files(Path(__file__).parent / "data" / "*.csv"), schema={"id": "bigint"})\n'
    )
    (folder / "data" / "a.csv").write_text("id\n1\n")
    run(folder)
    other = tmp_path / "other"
    if how == "move":
        folder.rename(other)
    else:
        shutil.copytree(folder, other)
        (other / "data" / "a.csv").touch()

    assert run(other)["rows"] == ("skip", "nothing new")
    assert Workspace(load(other)).query("select _source from rows").to_pylist() == [{"_source": "data/a.csv"}]


def test_renamed_file_is_reported_and_not_read_again(project):
    folder = project('rows = source(files("data/*.csv"), schema={"id": "bigint"})\n')
    (folder / "data" / "a.csv").write_text("id\n1\n")
    run(folder)
    (folder / "data" / "a.csv").rename(folder / "data" / "a_done.csv")

    assert run(folder)["rows"] == ("skip", "nothing new; data/a_done.csv is data/a.csv, renamed")
    assert ids(folder) == [1]
    assert run(folder, full=True)["rows"][0] == "rebuild"
    assert ids(folder) == [1]


def test_manifest_of_format_1_is_continued(project):
    """A manifest of format 1 lists the consumed files, under the paths that the pattern matched."""
    folder = project('rows = source(files("data/*.csv"), schema={"id": "bigint"})\n')
    (folder / "data" / "a.csv").write_text("id\n1\n")
    run(folder)
    manifest = json.loads(Workspace(load(folder)).require("rows").manifest.to_json())
    stat = (folder / "data" / "a.csv").stat()
    piece = {"uri": str(folder / "data" / "a.csv"), "size_bytes": 5, "stamp": f"{stat.st_size}-{stat.st_mtime_ns}"}
    del manifest["cursor"], manifest["gaps"], manifest["format_version"]

    cursor = Manifest.from_json(json.dumps({**manifest, "pieces": [piece]})).cursor

    reader = load(folder).graph["rows"].reader
    assert reader.plan(cursor).splits == ()
    (folder / "data" / "b.csv").write_text("id\n2\n")
    assert [split.source_object.uri for split in reader.plan(cursor).splits] == ["data/b.csv"]


def test_old_cursor_without_offsets_is_rejected(project, topic):
    folder = project(f'rows = source({topic.reader}, schema={{"id": "bigint"}})\n')
    topic.send(range(2))
    run(folder)
    manifest = json.loads(Workspace(load(folder)).require("rows").manifest.to_json())
    del manifest["cursor"], manifest["gaps"], manifest["format_version"]
    piece = {"uri": f"kafka://{topic.name}/0", "size_bytes": 5, "stamp": "abcdefgh"}

    cursor = Manifest.from_json(json.dumps({**manifest, "pieces": [piece]})).cursor

    with pytest.raises(StorageError, match=r"kind 'offsets', version 0.*--full"):
        load(folder).graph["rows"].reader.plan(cursor)


def test_manifest_of_a_later_format_is_rejected(project):
    folder = project('rows = source(generate({"id": "i"}, count=5), schema={"id": "bigint"})\n')
    run(folder)
    manifest = json.loads(Workspace(load(folder)).require("rows").manifest.to_json())

    with pytest.raises(StorageError, match=r"manifest of table 'rows' .* later version.*format 9.*upgrade"):
        Manifest.from_json(json.dumps({**manifest, "format_version": 9}))
