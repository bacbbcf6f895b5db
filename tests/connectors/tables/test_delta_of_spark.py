"""Tables that Delta 4.4 on Spark 4.2 wrote, with the rows that Spark reads; see tests/rigs/record_delta_tables.py."""

from __future__ import annotations

import json
import shutil
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline import delta_table
from pipeline.connectors.tables.versions import VersionProgress
from pipeline.core.errors import SourceError
from tests.rigs.as_spark_writes import ordered, plain

RECORDED = Path(__file__).parent / "spark_tables.zip"
NAMES = (
    "checkpoints",
    "clustered",
    "column_mapping",
    "deletion_vectors",
    "id_mapping",
    "int96",
    "times",
    "type_widening",
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spark")
    with zipfile.ZipFile(RECORDED) as archive:
        archive.extractall(folder)
    return folder


def rows_of(reader, cursor=None) -> list[dict[str, Any]]:
    rows = []
    for split in reader.plan(cursor).splits:
        result = reader.read(split, reader.schema(split.source_object))
        assert result.rejected.num_rows == 0
        rows += result.rows.drop_columns(["_position"]).to_pylist()
    return rows


def expected(tables: Path, name: str, what: str) -> list[Any]:
    lines = json.loads((tables / f"{name}.json").read_text())[what]
    return [json.loads(line, parse_float=Decimal) for line in lines]


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_those_that_spark_reads(tables, name):
    rows = [plain(row) for row in rows_of(delta_table(tables / name))]

    assert ordered(rows) == ordered(expected(tables, name, "rows"))


@pytest.mark.parametrize("folder", ["a b", "ä+#c"])
def test_deleted_rows_stay_deleted_wherever_the_table_is(tables, tmp_path, folder):
    shutil.copytree(tables / "deletion_vectors", tmp_path / folder / "t")
    rows = [plain(row) for row in rows_of(delta_table(tmp_path / folder / "t"))]

    assert ordered(rows) == ordered(expected(tables, "deletion_vectors", "rows"))


def test_changes_are_those_that_spark_reads(tables):
    reader = delta_table(tables / "deletion_vectors", changes=True)
    table_id = str(reader.location.open().metadata().id)
    rows = rows_of(reader, VersionProgress(table_id, 0).cursor("delta"))

    changes = [{name: each for name, each in plain(row).items() if name != "_commit_timestamp"} for row in rows]
    assert len(changes) == 59
    assert ordered(changes) == ordered(expected(tables, "deletion_vectors", "changes"))


def test_a_variant_is_refused(tables):
    with pytest.raises(SourceError, match="features that cannot be read: got variantType; remove them"):
        delta_table(tables / "variant").plan(None)
