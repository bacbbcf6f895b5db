"""Sources by dlt into Parquet files: `in_dlt.py read URL FOLDER`, a table by its Arrow path, and `in_dlt.py rest URL RATE FOLDER`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import dlt
from dlt.sources.helpers.rest_client.client import RESTClient
from dlt.sources.helpers.rest_client.paginators import PageNumberPaginator
from dlt.sources.sql_database import sql_table

from benchmarks.peers.timings import Clock


def read(url: str, to: str) -> None:
    """A table of PostgreSQL in Arrow batches."""
    address = url.replace("postgresql://", "postgresql+psycopg2://")
    _load(sql_table(credentials=address, table="lineitem", backend="pyarrow", chunk_size=100_000), to)


def rest(url: str, rate: str, to: str) -> None:
    """Numbered pages of an API; dlt has no limit of requests, so the pages wait here."""

    def items() -> Iterator[Any]:
        begun = time.monotonic()
        pages = PageNumberPaginator(base_page=1, total_path="total_pages")
        for number, page in enumerate(RESTClient(url, paginator=pages, data_selector="items").paginate("")):
            yield page
            time.sleep(max(0.0, begun + (number + 1) / float(rate) - time.monotonic()))

    _load(dlt.resource(items, name="items", max_table_nesting=0), to)


def _load(resource: Any, to: str) -> None:
    files = dlt.destinations.filesystem(f"file://{to}")
    pipeline = dlt.pipeline("bench", destination=files, dataset_name="d", pipelines_dir=f"{to}/dlt")
    pipeline.run(resource, loader_file_format="parquet")
    pipeline.drop()  # its working files are Parquet too


JOBS: dict[str, Callable[..., None]] = {"read": read, "rest": rest}

if __name__ == "__main__":
    clock = Clock()
    with clock.part("read"):
        JOBS[sys.argv[1]](*sys.argv[2:])
    clock.say()
