"""The ids of the last records of a log, by which messages that come again are recognized."""

from __future__ import annotations

from pipeline.connectors.spool.record_log import RecordLog, parts_of

MOST_IDS = 200_000
"""Number of the last ids that are recognized."""


class RecentIds:
    """The ids of a log's last records, which several processes may write. Use it within `RecordLog.locked`."""

    def __init__(self, log: RecordLog) -> None:
        """Begin without ids; `learn` reads them."""
        self._log = log
        self._ids: dict[str, None] = {}
        self._known_to = 0

    def __contains__(self, name: str) -> bool:
        """Return whether a recent record has this id."""
        return name in self._ids

    def learn(self) -> None:
        """Read the ids of records that this or another process wrote since the last time."""
        extent = self._log.extent()
        if extent is None:
            return
        begin = max(self._known_to, extent.begin, extent.end - MOST_IDS)
        for line in self._log.records(begin, extent.end) if begin < extent.end else ():
            name = parts_of(line)[1].get("id")
            if name:
                self._ids[str(name)] = None
        self._known_to = extent.end
        while len(self._ids) > MOST_IDS:
            del self._ids[next(iter(self._ids))]

    def add(self, names: list[str], end: int) -> None:
        """Remember the ids of the records before number `end`, which this process has just written."""
        self._ids |= dict.fromkeys(names)
        self._known_to = end
