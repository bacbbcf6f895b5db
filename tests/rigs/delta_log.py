"""Delta tables whose log a test writes itself, for features that delta-rs reads and does not write."""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_ARRAY_MAGIC, _BITMAP_COOKIE = 1681511377, 12346


class WrittenLog:
    """A table in a folder; each commit is a list of actions."""

    def __init__(self, folder: Path, fields: list[dict[str, Any]], **options: Any) -> None:
        self.folder = folder
        (folder / "_delta_log").mkdir(parents=True)
        features = options.get("features", [])
        protocol = {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": features,
            "writerFeatures": features,
        }
        self.metadata = {
            "id": str(uuid.uuid4()),
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json.dumps({"type": "struct", "fields": fields}),
            "partitionColumns": options.get("partition_by", []),
            "configuration": options.get("configuration", {}),
            "createdTime": 1,
        }
        self._number = 0
        self.commit({"protocol": protocol}, {"metaData": self.metadata})

    def commit(self, *actions: Mapping[str, Any]) -> int:
        info = {"commitInfo": {"timestamp": 1_700_000_000_000 + self._number, "operation": "WRITE"}}
        text = "\n".join(json.dumps(action) for action in (info, *actions))
        (self.folder / "_delta_log" / f"{self._number:020}.json").write_text(text)
        self._number += 1
        return self._number - 1

    def write(self, name: str, rows: pa.Table, values: Mapping[str, str | None] | None = None) -> dict[str, Any]:
        """Write a data file; return its `add`."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(rows, path)
        stats = json.dumps({"numRecords": rows.num_rows})
        size = path.stat().st_size
        return {"path": name, "partitionValues": values or {}, "size": size, "modificationTime": 1, "dataChange": True, "stats": stats}  # fmt: skip


def removal(add: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: add[name] for name in ("path", "partitionValues", "size", "deletionVector") if name in add}
    return {**kept, "deletionTimestamp": 2, "dataChange": True, "extendedFileMetadata": True}


def field(name: str, kind: Any, number: int | None = None, physical: str = "") -> dict[str, Any]:
    mapping = {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": physical} if physical else {}
    return {"name": name, "type": kind, "nullable": True, "metadata": mapping}


def deletion_vector(rows: Iterable[int]) -> dict[str, Any]:
    """Return an inline deletion vector of rows below 65,536."""
    deleted = sorted(rows)
    bitmap = struct.pack("<IIHHI", _BITMAP_COOKIE, 1, 0, len(deleted) - 1, 16)
    bitmap += b"".join(struct.pack("<H", row) for row in deleted)
    data = struct.pack("<IQI", _ARRAY_MAGIC, 1, 0) + bitmap
    text = _z85(data + b"\0" * (-len(data) % 4))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(data), "cardinality": len(deleted)}


def _z85(data: bytes) -> str:
    digits = []
    for begin in range(0, len(data), 4):
        number = int.from_bytes(data[begin : begin + 4], "big")
        digits.append("".join(_Z85[number // 85**power % 85] for power in (4, 3, 2, 1, 0)))
    return "".join(digits)
