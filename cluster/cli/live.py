"""Shows running streams: on a terminal as one table that is updated in place, elsewhere as lines at intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cluster.cli.console import text
from pipeline.core.errors import few, quantity
from pipeline.streaming.runtime.job import StreamJob
from pipeline.streaming.runtime.metrics import PHASES, TROUBLED, StreamStatus

EVERY_S = 0.25
_LINE_EVERY_S = 5.0
_MARKS = {
    "starting": ("·", "dim"),
    "running": ("●", "green"),
    "waiting": ("…", "yellow"),
    "paused": ("‖", "yellow"),
    "draining": ("▼", "cyan"),
    "restarting": ("↻", "yellow"),
    "ended": ("✓", "green"),
    "stopped": ("■", "dim"),
    "failed": ("✗", "red"),
}
_BLOCKS = "▁▂▃▄▅▆▇█"
_SHADES = dict(zip(PHASES, ("bright_black", "blue", "magenta", "yellow", "cyan", "green"), strict=True))
_BAR = 24


class View(Protocol):
    """Shows running streams."""

    def show(self, running: StreamJob) -> None:
        """Show the current status of all streams."""

    def say(self, name: str, words: str) -> None:
        """Report an event of one stream."""


@contextmanager
def live_view(console: Console, *, quiet: bool) -> Iterator[View]:
    """Yield the view for a console: a live table on a terminal, lines elsewhere, nothing if `quiet`."""
    if quiet:
        yield _Lines(console, every_s=float("inf"))
    elif not console.is_terminal:
        yield _Lines(console, every_s=_LINE_EVERY_S)
    else:
        wrapping = Console(stderr=True, highlight=False, emoji=False)
        with Live(console=wrapping, auto_refresh=False, transient=True) as live:
            yield _Table(live)


class _Table:
    def __init__(self, live: Live) -> None:
        self._live = live
        self._rates: dict[str, list[float]] = {}

    def show(self, running: StreamJob) -> None:
        for facts in running.statuses.values():
            self._rates.setdefault(facts.name, []).append(facts.rows_per_s)
            del self._rates[facts.name][:-12]
        shown = table_of(running.statuses.values(), self._rates, running.trouble, self._live.console.width)
        self._live.update(shown, refresh=True)

    def say(self, name: str, words: str) -> None:
        self._live.console.print(f"[yellow]↻[/] {escape(name)}: {escape(words)}")


class _Lines:
    def __init__(self, console: Console, every_s: float) -> None:
        self._console = console
        self._every_s = every_s
        self._last = time.monotonic()

    def show(self, running: StreamJob) -> None:
        if time.monotonic() - self._last < self._every_s:
            return
        self._last = time.monotonic()
        for facts in running.statuses.values():
            self._console.print(line_of(facts), markup=False)

    def say(self, name: str, words: str) -> None:
        self._console.print(f"{name}: {words}", markup=False)


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[StreamStatus, Sequence[float]], RenderableType]
    from_width: int = 0
    """Minimum width of the console, in characters, at which the column is shown."""
    to_right: bool = True


def _status(facts: StreamStatus, rates: Sequence[float]) -> Text:
    del rates
    mark, style = _MARKS[facts.status]
    return Text(f"{mark} {facts.status}", style)


_COLUMNS = (
    _Column("stream", lambda facts, _: Text(facts.name, "bold"), to_right=False),
    _Column("", _status, to_right=False),
    _Column("epoch", lambda facts, _: text(facts.epoch)),
    _Column("rows/s", lambda facts, _: f"{facts.rows_per_s:,.0f}"),
    _Column("", lambda _, rates: Text(_spark(rates), "green"), 140),
    _Column("MB/s", lambda facts, _: f"{facts.bytes_per_s / 1e6:,.1f}", 125),
    _Column("behind", lambda facts, _: behind(facts)),
    _Column("latency p50 · p99", lambda facts, _: latency(facts)),
    _Column("event time", lambda facts, _: delay(facts.watermark_delay_s), 90),
    _Column("state", lambda facts, _: state(facts), 100),
    _Column("rejected", lambda facts, _: quarantined(facts), 110),
    _Column("time spent", lambda facts, _: _bar(facts), 165, to_right=False),
)


def table_of(
    streams: Iterable[StreamStatus], rates: Mapping[str, Sequence[float]], trouble: str = "", width: int = 200
) -> RenderableType:
    """Return all streams as a table that fits a width, with errors below it."""
    columns = [column for column in _COLUMNS if width >= column.from_width]
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.title, justify="right" if column.to_right else "left", no_wrap=True)
    notes: list[Text] = []
    for facts in streams:
        table.add_row(*(column.cell(facts, rates.get(facts.name, ())) for column in columns))
        if facts.error and facts.status in TROUBLED:
            notes.append(Text(f"{facts.name}: {facts.error}", "red" if facts.status == "failed" else "yellow"))
        if facts.waits_for:
            notes.append(Text(f"{facts.name}: event time waits for {few(facts.waits_for, 3)}", "dim"))
    if trouble:
        notes.append(Text(f"the catalog does not answer; streams continue: {trouble}", "yellow"))
    foot = [Text.assemble(("▇ ", _SHADES[phase]), (f"{phase}  ", "dim")) for phase in PHASES]
    shades = foot if columns[-1] is _COLUMNS[-1] else []
    return Group(table, Text(""), *notes, Text.assemble(*shades, ("Ctrl-C commits and ends", "dim")))


def line_of(facts: StreamStatus) -> str:
    """Return a stream as one line."""
    parts = [
        f"{facts.name}: {facts.status}",
        f"epoch {facts.epoch}",
        f"{facts.rows_per_s:,.0f} rows/s",
        f"{behind(facts)} behind",
        f"latency {latency(facts)}",
        f"event time {delay(facts.watermark_delay_s)} behind",
    ]
    return ", ".join(parts + ([facts.error] if facts.error and facts.status in TROUBLED else []))


def behind(facts: StreamStatus) -> str:
    """Return the total lag of all partitions."""
    return "unbounded" if facts.behind is None else text(facts.behind)


def latency(facts: StreamStatus) -> str:
    """Return the latency from read to commit, median and p99."""
    half, most = facts.latency.quantile(0.5), facts.latency.quantile(0.99)
    return "-" if half is None or most is None else f"{span(half)} · {span(most)}"


def delay(seconds: float | None) -> str:
    """Return how far event time is behind the clock."""
    return "-" if seconds is None else span(seconds)


def state(facts: StreamStatus) -> str:
    """Return the size of the state in rows."""
    return quantity(facts.state_rows, "row") if facts.state_rows or facts.state_bytes else "-"


def quarantined(facts: StreamStatus) -> str:
    """Return the number of quarantined rows, and how many of them are late."""
    late, all_of_them = facts.totals.get("late", 0), facts.totals.get("quarantined", 0)
    return "-" if not all_of_them else f"{all_of_them:,}" + (f" ({late:,} late)" if late else "")


def span(seconds: float) -> str:
    """Return a duration as text with a unit."""
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.1f} s"


def _spark(rates: Sequence[float]) -> str:
    most = max(rates, default=0)
    return "".join(_BLOCKS[int(rate / most * 7)] for rate in rates).rjust(12) if most else " " * 12


def _bar(facts: StreamStatus) -> Text:
    """Return the share of time spent in each phase as a bar."""
    total = sum(facts.phases_s.values())
    bar = Text()
    if not total:
        return bar
    ends, at = 0.0, 0
    for phase in PHASES:
        ends += facts.phases_s.get(phase, 0.0) / total * _BAR
        bar.append("▇" * (round(ends) - at), _SHADES[phase])
        at = round(ends)
    return bar
