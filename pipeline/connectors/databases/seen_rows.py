"""Which rows of a window were read: a few hashes, or one digest if there are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.kernel.engine import arrow, connect, one
from pipeline.kernel.sql_text import quoted

MOST_HASHES = 2000
"""Maximum number of hashes in a cursor, which is stored in each manifest."""
NO_HASHES = pa.chunked_array([], pa.string())
_HASH_DIGITS = 16
_DIGEST_DIGITS = 12


@dataclass(frozen=True)
class SeenRows:
    """The rows of a window: their hashes if they are few, else only their number and the sum of their hashes."""

    count: int = 0
    digest: str = "0"
    hashes: tuple[str, ...] | None = ()

    @classmethod
    def of(cls, hashes: pa.ChunkedArray) -> SeenRows:
        """Return the rows with these hashes."""
        digest = _sum(hashes)
        few = len(hashes) <= MOST_HASHES
        return cls(len(hashes), digest, tuple(sorted(hashes.to_pylist())) if few else None)

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> SeenRows:
        """Return the rows in a cursor."""
        hashes = value["hashes"]
        return cls(value["count"], value["digest"], None if hashes is None else tuple(hashes))

    def to_json(self) -> dict[str, Any]:
        """Return the rows as JSON."""
        return {
            "count": self.count,
            "digest": self.digest,
            "hashes": None if self.hashes is None else list(self.hashes),
        }

    def unseen(self, hashes: pa.ChunkedArray) -> tuple[str, ...] | None:
        """Return the hashes that are not among these rows; `None` if there are some and it is not known which."""
        if self.hashes is not None:
            known = pa.array(self.hashes, pa.string())
            return tuple(hashes.filter(pc.invert(pc.is_in(hashes, known))).to_pylist())
        is_same = (self.count, self.digest) == (len(hashes), _sum(hashes))
        return () if is_same else None


def hashes_of(rows: pa.Table, columns: Sequence[str]) -> pa.ChunkedArray:
    """Return a hash of each row over some columns of text; columns are kept apart, and null is not the empty text."""
    texts = [f"{quoted(name)}::varchar" for name in columns]  # without rows, a driver does not know the type
    parts = ", ".join(f"coalesce(len({text}) || ':' || {text}, '-')" for text in texts)
    with connect() as con:
        con.register("_rows", rows)
        return arrow(con, f"select left(md5(concat({parts})), {_HASH_DIGITS}) as h from _rows").column("h")


def among(hashes: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the hashes that are also in `known`."""
    return hashes.filter(pc.is_in(hashes, known.combine_chunks()))


def _sum(hashes: pa.ChunkedArray) -> str:
    if not len(hashes):
        return "0"
    with connect() as con:
        con.register("_hashes", pa.table({"h": hashes}))
        return str(one(con, f"select sum(('0x' || left(h, {_DIGEST_DIGITS}))::bigint) from _hashes")[0])
