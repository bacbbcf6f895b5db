"""Finds the files that a killed process staged for an epoch it did not commit.

    this process opens the table      its last epoch is 7
    it lists the files                stream-a…-000000008 was staged by a process that was killed, or by a rival
    it commits epoch 8                the rival's epoch 8 is based on epoch 7, so it can no longer be committed
    it removes the listed files

Numbers of epochs only grow, also when a savepoint is restored, so a file of a later epoch than the last one belongs to
no version of the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.core.errors import StorageError
from pipeline.core.logs import logger
from pipeline.lake import Storage

log = logger(__name__)
_NAME = re.compile(r"(?:part-)?(?P<session>stream-[0-9a-f]{8})-(?P<epoch>\d{9})-")


@dataclass(frozen=True)
class Leftovers:
    """Files of uncommitted epochs, below a table and below its quarantine."""

    table: Storage
    quarantine: Storage
    files: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()

    def remove(self, session: str) -> None:
        """Remove the files, except those of the session that has just committed. A failure is logged."""
        try:
            for storage, names in ((self.table, self.files), (self.quarantine, self.rejected)):
                storage.remove([name for name in names if session not in name])
        except StorageError as error:
            log.warning("files of a process that was killed remain", table=self.table.uri, error=str(error))


def find_leftovers(table: Storage, quarantine: Storage, epoch: int) -> Leftovers:
    """List the files of epochs after the last one. A failure is logged, and nothing is found."""
    try:
        return Leftovers(table, quarantine, after(table.names(), epoch), after(quarantine.names(), epoch))
    except StorageError as error:
        log.warning("files were not listed: those of a killed process remain", table=table.uri, error=str(error))
        return Leftovers(table, quarantine)


def after(names: Iterable[str], epoch: int) -> tuple[str, ...]:
    """Return the names of files that streams staged for epochs after this one."""
    matches = {name: _NAME.match(name.rpartition("/")[2]) for name in names}
    return tuple(name for name, match in matches.items() if match is not None and int(match["epoch"]) > epoch)
