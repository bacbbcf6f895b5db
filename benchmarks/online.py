"""Time to load an online store of features, and to read entities from it, compared with Feast.

A view of 100,000 entities with 100 numbers each. Parts: `load`, from Parquet into the store; the median and the 99th
percentile of reads of 1 and of 100 entities, of all features, into a table or dictionary in this process; and `each of 2
processes`, the seconds for a read of 1 entity while two processes read as fast as they can, divided by two. The stores are SQLite files, and a Valkey server on the same
cores. Compared are the sums of the medians.

Freshness, from the creation of an event to its features, is part of `stream latency`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import duckdb

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran
from benchmarks.peer import Script, interpreter, require
from benchmarks.peers.online_reads import ASKED, FEATURES
from benchmarks.valkey import valkey

ENTITIES = 100_000
STORES = ("sqlite", "valkey")
COMPARED = ("1 entity p50", "100 entities p50")


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield each store, or only the given ones."""
    rows = max(1_000, round(ENTITIES * scale))
    numbers = ", ".join(f"(hash(i, {n}) % 1000000)::double / 7 as f{n}" for n in range(FEATURES))
    files = data.made("features", f"select i as e, timestamptz '2026-01-01 00:00:00Z' as t, {numbers}", rows)
    for store in STORES:
        if store in only or not only:
            contestants = [
                Contestant("auto", partial(_run, store, "headwater", files, Path(sys.executable)), is_ours=True),
                Contestant("feast", partial(_run, store, "feast", files, None)),
            ]
            yield Case(store, _expected(files), contestants, {"entities": rows, "features": FEATURES})


def _expected(files: Path) -> Answer:
    with duckdb.connect() as con:
        asked = ", ".join(map(str, ASKED))
        return con.sql(f"select e, f0, f99 from '{files}/*.parquet' where e in ({asked}) order by e").fetchall()


def _answer(folder: Path) -> Answer:
    with duckdb.connect() as con:
        return con.sql(f"select e, f0, f99 from '{folder}/rows.parquet' order by e").fetchall()


def _run(store: str, who: str, files: Path, python: Path | None, folder: Path) -> Ran:
    with _server(store, folder) as url:
        script = Script(who, "online", [url, str(files)], _answer, "parts", home="" if python else "-feast")
        if python is None:
            require(script)
        ran = script.run(folder, python or interpreter(script.home))
    return replace(ran, seconds=sum(ran.parts[part] for part in COMPARED))


@contextmanager
def _server(store: str, folder: Path) -> Iterator[str]:
    """Give the URL of an empty store; a server is stopped afterwards."""
    if store == "sqlite":
        yield f"sqlite:///{folder}/features.db"
        return
    with valkey(folder) as url:
        yield url
