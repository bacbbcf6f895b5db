"""Which versions of tables are read: those of a time, or given ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pipeline.core.clock import Clock, now
from pipeline.core.errors import DefinitionError, RequestError
from pipeline.core.event_time import parse_duration

At = str | datetime | timedelta | Mapping[str, int] | Sequence[str]
"""What `at=` accepts: a time, how long ago, versions by table, or texts such as those of `--at`."""
_AGO = re.compile(r"-?\s*(.+?)(\s+ago)?", re.IGNORECASE)
_VERSION = re.compile(r"([^=\s]+)\s*=\s*(\d+)")
_HOW = "use a time like 2026-05-01T12:00, a duration like '2 hours ago' or 2h, or TABLE=VERSION"


@dataclass(frozen=True)
class AsOf:
    """Tables as of a time, and given versions of some; neither: the newest versions."""

    time: datetime | None = None
    versions: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, at: AsOf | At | None, clock: Clock = now) -> AsOf:
        """Parse `at=` or the values of `--at`: at most one time, and a version for any number of tables.

        A time is ISO 8601, in UTC without an offset, or a duration before now: `2h`, `-2h`, `2 hours ago`. Raises
        `RequestError` for a value that is neither, and for two times or two versions of a table.
        """
        if at is None or isinstance(at, AsOf):
            return at or cls()
        if isinstance(at, Mapping):
            return cls(versions=dict(at))
        if isinstance(at, datetime | timedelta):
            return cls(_moment(at, clock))
        time, versions = None, dict[str, int]()
        for text in (at,) if isinstance(at, str) else at:
            named = _VERSION.fullmatch(text.strip())
            if named is None and time is None:
                time = _moment(text, clock)
            elif named is None or versions.setdefault(named[1], int(named[2])) != int(named[2]):
                what = "two times" if named is None else f"two versions of {named[1]!r}"
                raise RequestError(f"{what} to read are given", got=repr(text), do="give one")
        return cls(time, versions)


def _moment(at: str | datetime | timedelta, clock: Clock) -> datetime:
    if isinstance(at, timedelta):
        return clock() - abs(at)
    if isinstance(at, str):
        text = at.strip()
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            ago = _AGO.fullmatch(text)
            try:
                return clock() - parse_duration("" if ago is None else ago[1], "at")
            except (DefinitionError, OverflowError) as error:
                raise RequestError("the time or version to read cannot be parsed", got=repr(text), do=_HOW) from error
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
