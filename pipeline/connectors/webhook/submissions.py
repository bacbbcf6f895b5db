"""Stores rows that callers with a key send: all rows of a request or, after it was repeated, those that were missing.

A repeated request is recognized by its idempotency key (draft-ietf-httpapi-idempotency-key-header), which belongs to its caller.
The records of a request are appended in their order, so that after a failure a part of them is there from the first on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.connectors.spool.recent_ids import MOST_IDS
from pipeline.connectors.spool.record_log import parts_of, record

if TYPE_CHECKING:
    from pipeline.connectors.webhook.source import Webhook


@dataclass
class _Known:
    digest: str
    rows: int = 0


class Submissions:
    """Stores the rows of one source in this process; several processes may share its log. Thread-safe."""

    def __init__(self, webhook: Webhook, now: Callable[[], float]) -> None:
        """Read nothing yet; `now` returns the seconds since 1970."""
        self._webhook, self._now, self._log = webhook, now, webhook.partition()
        self._known: dict[tuple[str, str], _Known] = {}
        self._known_to = 0

    def store(self, rows: Sequence[bytes], caller: str, key: str = "") -> bool:
        """Store rows, each a line of JSON; they are on disk when this returns. Without a key, they are always new.

        Returns `False`, and stores nothing, if the caller sent other rows with this key. Raises `SourceError` if they cannot be
        stored; the caller should send them again.
        """
        digest = hashlib.sha256(b"\n".join(rows)).hexdigest()
        fields = {"id": key or None, "caller": caller, "digest": digest}
        with self._log.locked():
            missing = rows
            if key:
                self._learn()
                known = self._known.get((caller, key))
                if known is not None and known.digest != digest:
                    return False
                missing = rows[known.rows :] if known is not None else rows
            if missing:
                at_ms = int(self._now() * 1000)
                self._log.append_locked([record(at_ms, fields, each) for each in missing], self._webhook.kept_s)
        return True

    def _learn(self) -> None:
        """Read the keys of records that this or another process wrote since the last time."""
        extent = self._log.extent()
        if extent is None:
            return
        begin = max(self._known_to, extent.begin, extent.end - MOST_IDS)
        for line in self._log.records(begin, extent.end) if begin < extent.end else ():
            fields = parts_of(line)[1]
            if fields.get("id"):
                pair = (str(fields.get("caller")), str(fields["id"]))
                self._known.setdefault(pair, _Known(str(fields.get("digest")))).rows += 1
        self._known_to = extent.end
        while len(self._known) > MOST_IDS:
            del self._known[next(iter(self._known))]
