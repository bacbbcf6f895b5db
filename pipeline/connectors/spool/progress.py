"""Plans a source that is fetched page by page: what is new, how far it was read, and where a limited fetch continues."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.connectors.spool.deduplication import PageDeduplicator, deduplicating
from pipeline.connectors.spool.high_water import CursorColumn, HighWater, merged
from pipeline.connectors.spool.segments import SegmentWriter, Spool
from pipeline.core.cursors import Bound, Cursor, ReadPlan
from pipeline.core.errors import quantity

KIND = "pages"
_DIGEST_BITS = 128


@dataclass(frozen=True)
class FetchedPage:
    """The rows of one response, each as a line of JSON, and how to continue after it."""

    lines: Sequence[bytes]
    request: str
    """A description of the request, without credentials."""
    next: Mapping[str, Any] | None = None
    """What continues the fetch after this page, as JSON; `None` for the last page."""
    token: Any = None
    """What the next fetch begins with, as JSON, for systems that define it themselves, such as a delta link."""
    may_be_last: bool = False
    """Whether a fetch may end after this page although there is more, because the token continues it."""


@dataclass(frozen=True)
class Progress:
    """How far a source was fetched."""

    rows: int = 0
    """The number of rows that were read."""
    high: HighWater | None = None
    """The mark of the last complete fetch."""
    running: HighWater | None = None
    """The mark of a fetch that was limited and is not complete."""
    next: Mapping[str, Any] | None = None
    """Where that fetch continues."""
    token: Any = None
    digest: int = 0
    """Without a cursor column: a hash of all rows, regardless of their order."""
    is_partial: bool = False
    """Whether a limit ended the fetch, after a page from which the token continues."""
    notes: tuple[str, ...] = ()

    @property
    def mark(self) -> HighWater | None:
        """The highest value of the last complete fetch, if there was one."""
        return self.high if self.high is not None and self.high.has_value else None

    @property
    def has_more(self) -> bool:
        """Whether a limit left pages for the next fetch."""
        return self.is_partial or self.next is not None

    def cursor(self) -> Cursor:
        """Return the progress as a cursor."""
        marks = {"high": self.high, "running": self.running}
        value: dict[str, Any] = {name: mark.to_json() for name, mark in marks.items() if mark is not None}
        value |= {name: each for name, each in (("next", self.next), ("token", self.token)) if each is not None}
        return Cursor(KIND, {"rows": self.rows, "digest": f"{self.digest:032x}", **value})

    @classmethod
    def of(cls, cursor: Cursor | None) -> Progress:
        """Return the progress from a cursor."""
        if cursor is None:
            return cls()
        value = cursor.of_kind(KIND)
        high, running = (HighWater.of_json(value[n]) if n in value else None for n in ("high", "running"))
        return cls(value["rows"], high, running, value.get("next"), value.get("token"), int(value["digest"], 16))


Fetch = Callable[[Progress], Iterator[FetchedPage]]
"""Yields the pages since a progress, beginning at its `next` if it has one."""


@dataclass(frozen=True)
class PagedSource:
    """What `plan` needs to know about a source."""

    uri: str
    spool: Spool
    fetch: Fetch
    column: CursorColumn | None = None
    by_token: bool = False
    """Whether the system itself knows what is new, by the token of the last page."""

    def plan(self, cursor: Cursor | None, bound: Bound) -> ReadPlan:
        """Fetch what is new into the spool, and return it as a plan; a limit ends the fetch after a page.

        Without a cursor column and without tokens everything is fetched, and compared with what was read.
        """
        self.spool.remove_old()
        start = Progress.of(cursor)
        is_compared = self.column is None and not self.by_token
        if is_compared and cursor is not None and start.next is None:
            return self._compared(start)
        writer = SegmentWriter(self.spool, self.uri, start.rows)
        progress = self._fetched(start, writer, bound)
        if (
            start.next is not None and progress.next is None and progress.rows == start.rows
        ):  # only an empty page was left
            if is_compared:
                return self._compared(progress)
            progress = self._fetched(progress, writer, bound)
        writer.end_segment()
        count = progress.rows - start.rows
        splits = tuple(writer.splits)
        new = f"{quantity(count, 'new row')}{', more are left' * progress.has_more}" if count else ""
        if not count and cursor is not None and not self._has_moved(start, progress):
            return ReadPlan((), cursor, notes=progress.notes)
        return ReadPlan(splits, progress.cursor(), new, has_more=progress.has_more, notes=progress.notes)

    def _has_moved(self, start: Progress, progress: Progress) -> bool:
        """Return whether a fetch without new rows has a result that should be stored when there are rows again."""
        return (start.next, start.token) != (progress.next, progress.token)

    def _compared(self, start: Progress) -> ReadPlan:
        writer = SegmentWriter(self.spool, self.uri, 0)
        progress = self._fetched(Progress(), writer, Bound())
        if (progress.digest, progress.rows) == (start.digest, start.rows):
            return ReadPlan((), start.cursor(), notes=progress.notes)
        writer.end_segment()
        changed = f"{self.uri} returns other rows than before"
        new = quantity(progress.rows, "row")
        return ReadPlan(tuple(writer.splits), progress.cursor(), new, changed=changed, notes=progress.notes)

    def _fetched(self, start: Progress, writer: SegmentWriter, bound: Bound) -> Progress:
        """Write the pages of a fetch, up to a limit, and return the progress after it."""
        if self.column is None:
            return self._pages(start, writer, bound, None)
        until_us = None if bound.until is None else int(bound.until.timestamp() * 1e6)
        with deduplicating(self.column, start.high, until_us) as pages:
            return self._pages(start, writer, bound, pages)

    def _pages(self, start: Progress, writer: SegmentWriter, bound: Bound, pages: PageDeduplicator | None) -> Progress:
        progress, before = start, _Size(writer)
        for page in self.fetch(start):
            lines, running, digest = page.lines, progress.running, progress.digest
            if pages is not None:
                new = pages.new_rows(lines, running)
                lines, running = new.lines, new.running
            elif not self.by_token:
                digest = (digest + _digest(lines)) % (1 << _DIGEST_BITS)
            writer.add(lines, page.request)
            token = progress.token if page.token is None else page.token
            progress = replace(
                progress, rows=progress.rows + len(lines), running=running, digest=digest, next=page.next, token=token
            )
            if (page.next is not None or page.may_be_last) and before.exceeds(progress.rows, bound):
                return self._completed(progress, is_partial=True) if page.may_be_last else progress
        return self._completed(progress, is_partial=False)

    def _completed(self, progress: Progress, *, is_partial: bool) -> Progress:
        """Return the progress after the last page of a fetch."""
        high = progress.high if self.column is None else merged(progress.high, progress.running, self.column)
        return replace(progress, high=high, running=None, next=None, is_partial=is_partial)


class _Size:
    """The size of a fetch before its first page."""

    def __init__(self, writer: SegmentWriter) -> None:
        self._writer, self._rows = writer, writer.position

    def exceeds(self, rows: int, bound: Bound) -> bool:
        """Return whether a limit has been reached; a fetch has at least one row."""
        count, size = rows - self._rows, self._writer.size_bytes
        over = (
            bound.rows is not None and count >= bound.rows,
            bound.size_bytes is not None and size >= bound.size_bytes,
        )
        return count > 0 and any(over)


def _digest(lines: Sequence[bytes]) -> int:
    return sum(int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "big") for line in lines)
