"""Feast: `in_feast.py JOB ARGUMENTS FOLDER`.

`online URL DATA` loads a feature view into an online store and reads it; `features LABELS VIEW...` makes a training set.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64

from benchmarks.peers.feature_views import TTL_DAYS
from benchmarks.peers.online_reads import ASKED, FEATURES, for_seconds, timed, together
from benchmarks.peers.timings import Clock

NAMES = [f"view:f{n}" for n in range(FEATURES)]


def opened(url: str, folder: str) -> FeatureStore:
    """Return a store whose registry and offline store are local files."""
    if url.startswith("sqlite"):
        online: dict[str, Any] = {"type": "sqlite", "path": url.removeprefix("sqlite:///")}
    else:
        online = {"type": "redis", "connection_string": url.removeprefix("redis://").removesuffix("/0")}
    return FeatureStore(config=_config(folder, online, "file"))


def _config(folder: str, online: dict[str, Any], offline: str) -> RepoConfig:
    return RepoConfig(
        project="bench",
        provider="local",
        registry=f"{folder}/registry.db",
        online_store=online,
        offline_store={"type": offline},
        entity_key_serialization_version=3,
    )


def online(clock: Clock, url: str, data: str, to: str) -> None:
    """Load the view and read it."""
    store = opened(url, to)
    entity = Entity(name="e", join_keys=["e"], value_type=ValueType.INT64)
    (file,) = Path(data).glob("*.parquet")
    view = FeatureView(
        name="view",
        entities=[entity],
        ttl=timedelta(days=3650),
        schema=[Field(name=f"f{n}", dtype=Float64) for n in range(FEATURES)],
        source=FileSource(path=str(file), timestamp_field="t"),
    )
    store.apply([entity, view])
    with clock.part("load"):
        store.materialize(datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
    rows = pq.ParquetFile(file).metadata.num_rows
    read = partial(_read, store)
    answer = read(ASKED)
    pq.write_table(pa.table({name: answer[name] for name in ("e", "f0", "f99")}), f"{to}/rows.parquet")
    timed(clock, read, rows)
    together(clock, partial(_reads, url, to), rows)


def features(clock: Clock, labels: str, *views: str) -> None:
    """Labelled rows with features as of their times, Parquet to Parquet, with Feast's DuckDB offline store."""
    *folders, to = views
    store = FeatureStore(config=_config(to, {"type": "sqlite", "path": f"{to}/online.db"}, "duckdb"))
    names = []
    for n, (folder, days) in enumerate(zip(folders, TTL_DAYS, strict=True)):
        entity = Entity(name=f"e{n}", join_keys=[f"e{n}"], value_type=ValueType.INT64)
        (file,) = Path(folder).glob("*.parquet")
        view = FeatureView(
            name=f"v{n}",
            entities=[entity],
            ttl=timedelta(days=days or 0),
            schema=[Field(name=f"{name}{n}", dtype=Float64) for name in "ab"],
            source=FileSource(path=str(file), timestamp_field="t"),
        )
        store.apply([entity, view])
        names += [f"v{n}:a{n}", f"v{n}:b{n}"]
    with clock.part("examples"):
        rows = pq.read_table(labels).to_pandas().rename(columns={"at": "event_timestamp"})
        examples = store.get_historical_features(entity_df=rows, features=names).to_arrow()
        Path(to, "examples").mkdir()
        pq.write_table(examples, f"{to}/examples/0.parquet", compression="zstd")


def _read(store: FeatureStore, keys: Sequence[int]) -> dict[str, list[Any]]:
    rows = [{"e": key} for key in keys]
    answer: dict[str, list[Any]] = store.get_online_features(features=NAMES, entity_rows=rows).to_dict()
    return answer


def _reads(url: str, folder: str, seconds: float, entities: int) -> int:
    return for_seconds(partial(_read, opened(url, folder)), seconds, entities)


JOBS: dict[str, Callable[..., None]] = {"online": online, "features": features}

if __name__ == "__main__":
    clock = Clock()
    JOBS[sys.argv[1]](clock, *sys.argv[2:])
    clock.say()
