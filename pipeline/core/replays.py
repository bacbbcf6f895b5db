"""A table of the lake told again, row by row in the order of its event time, as a source of streams."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import DefinitionError
from pipeline.core.fingerprint import fingerprint
from pipeline.core.reading import OnlyStreamed


@dataclass(frozen=True)
class Replay(OnlyStreamed):
    """What to tell again. It reads nothing itself: the stream that is made of it knows the lake. Make one with `replay`."""

    table: str
    by: str
    speed: float | None = None
    where: str | None = None

    @property
    def fingerprint(self) -> str:
        """Changes with the table, the column and the condition; not with the speed."""
        return fingerprint("replay", self.table, self.by, self.where)


def replay(table: str, *, by: str, speed: float | None = None, where: str | None = None) -> Replay:
    """Return a log of the rows of a table, in the order of the column `by`, then of all others.

    `speed` is how many seconds of event time pass in one second (3600: a day in 24 s); without it all rows are there at
    once. `where` is a SQL condition on the rows to tell. Delivery: the same place gives the same row while the table
    stays as it is.
    """
    if speed is not None and speed <= 0:
        raise DefinitionError("a replay goes forward: speed= is greater than 0", got=str(speed))
    return Replay(table, by, speed, where)
