"""A Delta Sharing server on loopback that shares a local Delta table, by the published protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from deltalake import DeltaTable

from tests.rigs.http_faults import HttpServer, Received, Reply

SIGNATURE = "signed-by-the-store"
TOKEN = "a-bearer-token"  # noqa: S105 - of this server
_NOT_A_RANGE = Reply({"errorCode": "INVALID_PARAMETER_VALUE", "message": "the range ends before it begins"}, 400)


class SharingServer:
    """Shares the table in a folder as `market.public.trades`; data files are at another host name."""

    def __init__(self, server: HttpServer, table: Path) -> None:
        self.table, self.has_history, self.reader_version = table, True, 1
        self.broken: Reply | None = None
        """Sent instead of a data file."""
        self.server, self.address = server, "/share/shares/market/schemas/public/tables/trades"
        server.script, server.received = [], []
        server.routes = {
            "/share/shares": self._shares,
            "/share/shares/market/all-tables": self._tables,
            f"{self.address}/version": self._version,
            f"{self.address}/query": self._query,
            f"{self.address}/changes": self._changes,
        }

    @property
    def profile(self) -> str:
        return json.dumps({"shareCredentialsVersion": 1, "endpoint": f"{self.server.url}/share/", "bearerToken": TOKEN})

    def _shares(self, received: Received) -> Reply:
        return self._refusal(received) or Reply({"items": [{"name": "market"}]})

    def _tables(self, received: Received) -> Reply:
        """Answer with two pages, of which the first has no items."""
        if "pageToken" not in received.params:
            return Reply({"nextPageToken": "2"})
        table = {"name": "trades", "schema": "public", "share": "market"}
        return self._refusal(received) or Reply({"items": [table], "nextPageToken": ""})

    def _version(self, received: Received) -> Reply:
        return self._refusal(received) or self._reply([], DeltaTable(str(self.table)).version())

    def _query(self, received: Received) -> Reply:
        options = received.json
        if options and not self.has_history:
            return Reply({"errorCode": "INVALID_PARAMETER_VALUE", "message": "history is not shared"}, 400)
        refused = self._refusal(received)
        if refused is not None:
            return refused
        if "startingVersion" in options:
            if options["startingVersion"] > options.get("endingVersion", DeltaTable(str(self.table)).version()):
                return _NOT_A_RANGE
            files = self._logged(options["startingVersion"], options.get("endingVersion"), ("add", "remove"))
            return self._reply(files, DeltaTable(str(self.table)).version())
        table = DeltaTable(str(self.table), version=options.get("version"))
        live = {unquote(action["path"]) for action in _actions(table)}
        adds = [each for each in self._logged(0, table.version(), ("add",)) if each["add"]["id"] in live]
        kept = {
            each["add"]["id"]: {k: v for k, v in each["add"].items() if k not in {"version", "timestamp"}}
            for each in adds
        }
        return self._reply([{"file": each} for each in kept.values()], table.version())

    def _changes(self, received: Received) -> Reply:
        first, last = int(received.params["startingVersion"]), int(received.params["endingVersion"])
        if first > last:
            return _NOT_A_RANGE
        files: list[dict[str, Any]] = []
        for version in range(first, last + 1):
            recorded = self._logged(version, version, ("cdc",))
            files += recorded or self._logged(version, version, ("add", "remove"))
        return self._refusal(received) or self._reply(files, DeltaTable(str(self.table)).version())

    def _refusal(self, received: Received) -> Reply | None:
        return None if received.headers.get("authorization") == f"Bearer {TOKEN}" else Reply({"message": "no"}, 403)

    def _logged(self, first: int, last: int | None, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
        files = []
        for version in range(first, (DeltaTable(str(self.table)).version() if last is None else last) + 1):
            path = self.table / "_delta_log" / f"{version:020}.json"
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            time_ms = next(line["commitInfo"]["timestamp"] for line in lines if "commitInfo" in line)
            for line in lines:
                for kind, action in line.items():
                    if kind in kinds and action.get("dataChange", True) | (kind == "cdc"):
                        files.append({"cdf" if kind == "cdc" else kind: self._file(action, version, time_ms)})
        return files

    def _file(self, action: dict[str, Any], version: int, time_ms: int) -> dict[str, Any]:
        name = unquote(action["path"])
        at = f"/files/{quote(name)}"
        self.server.routes[f"/files/{name}"] = lambda _: self.broken or Reply((self.table / name).read_bytes())
        self.server.routes[at] = self.server.routes[f"/files/{name}"]
        url = f"{self.server.url.replace('127.0.0.1', 'localhost')}{at}?signature={SIGNATURE}"
        stats = {"stats": action["stats"]} if "stats" in action else {}
        values = action.get("partitionValues") or {}
        return {"url": url, "id": name, "partitionValues": values, "size": action.get("size", 0), "version": version, "timestamp": time_ms, **stats}  # fmt: skip

    def _reply(self, files: list[dict[str, Any]], version: int) -> Reply:
        table = DeltaTable(str(self.table))
        metadata = {"id": str(table.metadata().id), "format": {"provider": "parquet"}, "schemaString": table.schema().to_json(), "partitionColumns": table.metadata().partition_columns}  # fmt: skip
        lines = [{"protocol": {"minReaderVersion": self.reader_version}}, {"metaData": metadata}, *files]
        body = "\n".join(json.dumps(line) for line in lines).encode()
        return Reply(body, headers={"Delta-Table-Version": str(version)})


def _actions(table: DeltaTable) -> list[dict[str, Any]]:
    import pyarrow as pa  # noqa: PLC0415 - only here

    rows: list[dict[str, Any]] = pa.RecordBatchReader.from_stream(table.get_add_actions()).read_all().to_pylist()
    return rows
