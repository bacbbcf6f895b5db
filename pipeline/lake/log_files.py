"""The files of a table's log by their names: entries and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.lake.storage import Storage

LOG = "_delta_log/"
"""The folder of the log below its table."""


@dataclass(frozen=True)
class LogFiles:
    """The files of a table's log."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, storage: Storage) -> LogFiles:
        """List the log."""
        return cls(storage.names(LOG))

    @property
    def entries(self) -> tuple[int, ...]:
        """The versions with an entry."""
        numbers = ((name, number_of(name)) for name in self.names)
        return tuple(sorted(number for name, number in numbers if number >= 0 and name == entry_name(number)))

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The versions with a checkpoint."""
        return tuple(sorted({number_of(name) for name in self.names if ".checkpoint" in name} - {-1}))

    def readable(self) -> tuple[int, ...]:
        """Return the versions that can be opened: a checkpoint, or an entry directly after one that can be."""
        entries, checkpoints = frozenset(self.entries), frozenset(self.checkpoints)
        numbers: list[int] = []
        for number in sorted(entries | checkpoints):
            follows = number == 0 or (bool(numbers) and numbers[-1] == number - 1)
            if number in checkpoints or (number in entries and follows):
                numbers.append(number)
        return tuple(numbers)


def entry_name(number: int) -> str:
    """Return the path of a commit in the log."""
    return f"{LOG}{number:020}.json"


def number_of(name: str) -> int:
    """Return the version number in the name of a log file, or -1."""
    digits = name.removeprefix(LOG)[:20]
    return int(digits) if digits.isdigit() and len(digits) == 20 else -1  # noqa: PLR2004 - see the Delta protocol
