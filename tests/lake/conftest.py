from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.core.staging import Manifest, Mode, StagedFile
from pipeline.kernel.engine import connect, schema_of
from pipeline.kernel.types import stored
from pipeline.lake import Lake, LakeTable, Storage, Version


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(Storage(str(tmp_path / "lake")))


class Writer:
    """Stages a SELECT and commits it, like a step of a run."""

    def __init__(self, table: LakeTable) -> None:
        self.table = table

    def stage(self, select: str, run: str = "r1", split: int = 0) -> tuple[StagedFile, ...]:
        with connect(filesystem=self.table.storage.filesystem()) as con:
            return self.table.stager(run).stage(con, select, split)

    def manifest(self, run: str = "r1", mode: Mode = "overwrite", **fields: Any) -> Manifest:
        return Manifest(table=self.table.name, run_id=run, fingerprint="f", mode=mode, **fields)

    def write(self, select: str, run: str = "r1", mode: Mode = "overwrite", seen: Version | None = None) -> Version:
        with connect() as con:
            schema = stored(schema_of(con, select))
        return self.table.commit(self.manifest(run, mode), self.stage(select, run), schema, seen)


@pytest.fixture
def writer(lake) -> Callable[..., Writer]:
    def make(name: str = "t", partition_by: tuple[str, ...] = ()) -> Writer:
        return Writer(lake.table("silver", name, partition_by=partition_by))

    return make
