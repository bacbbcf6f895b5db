"""The files in an open version of a Delta table."""

from __future__ import annotations

from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable

from pipeline.lake.storage import Storage


def actions_of(table: DeltaTable) -> pa.Table:
    """Return the add actions of a table. `pa.table` would import pandas, so the stream interface is used."""
    return pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all()


def uris(storage: Storage, actions: pa.Table) -> list[str]:
    """Return the URIs of the files of `actions_of`, in the same order."""
    # paths are percent-encoded once more in the log
    return [f"{storage.uri}/{unquote(path)}" for path in actions.column("path").to_pylist()]
