"""What queries read: maintenance begins with the folders of a table that they open most.

A query appends one line for each table, with the folders of the files that it opens, to a file of the week in the state folder of the
project. That takes a tenth of a millisecond and makes no request to the lake. Notes of several processes are merged by their lines; they are
bounded by the size of a file and the number of weeks. A note that is lost changes only the order of maintenance.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.clock import Clock, now
from pipeline.kernel.scan import DataFile

MOST_FOLDERS = 32
"""A query that opens more folders of a table is not noted: it does not prefer any."""
MOST_BYTES = 1 << 20
"""The size of the notes of a week, about ten thousand queries; later ones of the week are not noted."""
WEEKS = 4
"""For how many weeks notes are kept. Those of each earlier week count half."""
LEAST_READS, LEAST_SHARE = 10, 0.1
"""A folder is hot if so many queries have opened it, and so large a share of those that were noted."""


@dataclass(frozen=True)
class ReadCounts:
    """How often queries have opened the folders of a table, of some queries in all; those of earlier weeks count less."""

    queries: float = 0.0
    folders: Mapping[str, float] = field(default_factory=dict)

    def hot(self) -> tuple[str, ...]:
        """Return the folders that many queries open, the most read first."""
        least = max(LEAST_READS, LEAST_SHARE * self.queries)
        by_reads = sorted(self.folders.items(), key=lambda each: (-each[1], each[0]))
        return tuple(folder for folder, reads in by_reads if reads >= least)


@dataclass(frozen=True)
class ReadNotes:
    """The notes of a project on this machine."""

    folder: Path
    clock: Clock = now

    def note(self, table: str, files: Iterable[DataFile]) -> None:
        """Note the files of a table, given by its URI, that a query opens; without permission to write, nothing is noted."""
        folders = sorted({folder_of(table, file) for file in files})
        if not 0 < len(folders) <= MOST_FOLDERS:
            return
        line = json.dumps({"table": table, "folders": folders}, ensure_ascii=False) + "\n"
        path = self.folder / self._weeks()[0]
        with suppress(OSError):
            if not path.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                for old in set(os.listdir(self.folder)) - set(self._weeks()):  # noqa: PTH208 - only the names are needed
                    (self.folder / old).unlink(missing_ok=True)
            with path.open("ab", buffering=0) as notes:  # one write, so that lines of several processes do not mix
                if notes.tell() < MOST_BYTES:
                    notes.write(line.encode())

    def counts(self, table: str) -> ReadCounts:
        """Return how often queries have opened the folders of a table."""
        queries, folders = 0.0, defaultdict[str, float](float)
        for age, name in enumerate(self._weeks()):
            try:
                lines = (self.folder / name).read_bytes().splitlines()
            except OSError:
                continue
            for line in lines:
                with suppress(ValueError, KeyError, TypeError):  # a process was killed while it wrote
                    note = json.loads(line)
                    if note["table"] == table:
                        queries += 0.5**age
                        for folder in note["folders"]:
                            folders[folder] += 0.5**age
        return ReadCounts(queries, folders)

    def _weeks(self) -> list[str]:
        """Return the names of the files of notes, the newest first."""
        week = int(self.clock().timestamp()) // (7 * 24 * 3600)
        return [f"week-{week - age}.jsonl" for age in range(WEEKS)]


def folder_of(table: str, file: DataFile) -> str:
    """Return the folder of a file below its table: that of its partition, or nothing."""
    return file.uri.removeprefix(f"{table}/").rpartition("/")[0]
