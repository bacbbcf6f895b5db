"""The built-in connectors under the exported contract: files of each format, Kafka, generated rows."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable
from pathlib import Path

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from pyarrow.orc import write_table as write_orc

from benchmarks.kafka import Cluster
from pipeline import files, kafka
from pipeline.connectors.generator import Generator
from pipeline.core.sources import Extent
from pipeline.testing import ReaderContract, World

SCHEMA = {"id": "bigint", "name": "varchar"}
Rows = list[dict[str, object]]


def csv(path: Path, rows: Rows) -> None:
    path.write_text("id,name\n" + "".join(f"{row['id']},{row['name']}\n" for row in rows))


def ndjson(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def orc(path: Path, rows: Rows) -> None:
    write_orc(pa.Table.from_pylist(rows), path)


def avro(path: Path, rows: Rows) -> None:
    fields = [{"name": "id", "type": "long"}, {"name": "name", "type": "string"}]
    with path.open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema({"type": "record", "name": "r", "fields": fields}), rows)


class FilesWorld:
    """A folder that receives files; every third row is invalid."""

    schema = SCHEMA

    def __init__(self, folder: Path, suffix: str, write: Callable[[Path, Rows], None], wrong: object) -> None:
        self.reader = files(folder / f"f*{suffix}")
        self._folder, self._suffix, self._write, self._wrong = folder, suffix, write, wrong
        self._numbers = itertools.count()

    def produce(self) -> int:
        for _ in range(2):
            number = next(self._numbers)
            ids = (number * 10, self._wrong, number * 10 + 2)
            rows: Rows = [{"id": i, "name": f"n{i}"} for i in ids]
            self._write(self._folder / f"f{number:03}{self._suffix}", rows)
        return 6


class KafkaWorld:
    """A topic with three partitions, one of which stays empty."""

    schema = SCHEMA

    def __init__(self, cluster: Cluster) -> None:
        topic = f"connector-{uuid.uuid4().hex[:8]}"
        cluster.create_topic(topic, 3)
        self.reader = kafka(topic, servers=cluster.bootstrap)
        self._producer, self._topic = Producer({"bootstrap.servers": cluster.bootstrap, "log_level": 0}), topic

    def produce(self) -> int:
        for number in range(9):
            value = "not JSON" if number == 5 else json.dumps({"id": number, "name": "n"})
            self._producer.produce(self._topic, value, partition=number % 2)
        assert self._producer.flush(20) == 0
        return 9


GROWN: dict[str, int] = {}


class Growing(Generator):
    """Generated rows, up to a given number."""

    def extents(self):
        return {uri: Extent(0, GROWN[self.columns["name"]]) for uri in super().extents()}


class ComputedWorld:
    """Two partitions that grow by four rows each."""

    schema = SCHEMA

    def __init__(self) -> None:
        self._name = f"'{uuid.uuid4().hex}'"
        GROWN[self._name] = 0
        self.reader = Growing({"id": "i * 2 + p", "name": self._name}, partitions=2, count=1 << 40)

    def produce(self) -> int:
        GROWN[self._name] += 4
        return 8


class TestCsv(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return FilesWorld(tmp_path, ".csv", csv, "zz")


class TestNdjson(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return FilesWorld(tmp_path, ".ndjson", ndjson, "zz")


class TestParquet(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return FilesWorld(tmp_path, ".parquet", parquet, 3)


class TestAvro(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return FilesWorld(tmp_path, ".avro", avro, 3)


class TestOrc(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return FilesWorld(tmp_path, ".orc", orc, 3)


class TestKafka(ReaderContract):
    @pytest.fixture
    def world(self, kafka: Cluster) -> World:
        return KafkaWorld(kafka)


class TestGenerator(ReaderContract):
    @pytest.fixture
    def world(self) -> World:
        return ComputedWorld()
