"""Progress bars of `headwater run`: one for the run, and one for the current stage of each long step."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from cluster.cli.console import err, text
from pipeline.commit.moments import Moment
from pipeline.core.errors import quantity
from pipeline.governance import StepRecord
from pipeline.runner.events import Event, StepProgress


def bars(*, quiet: bool) -> Progress:
    """Return the bars, which are removed at the end."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"))
    return Progress(*columns, TimeElapsedColumn(), console=err, transient=True, disable=quiet)


@dataclass
class _Step:
    """A running step."""

    begun: float
    bar: TaskID | None = None


class RunProgress:
    """Turns a run's events into bars, and a line per completed table. Called from the steps' threads."""

    def __init__(self, progress: Progress, steps: int, expected: Mapping[str, float]) -> None:
        """Show a run of this number of steps; `expected` are the seconds that each took last."""
        self._progress = progress
        self._steps = steps
        self._run = progress.add_task("run", total=steps, done=f"0/{steps}")
        self._left = dict(expected)
        """The seconds that each step is expected to take from now."""
        self._working: dict[str, _Step] = {}
        self._ended = 0
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        with self._lock:
            if event.moment is Moment.DECIDED:
                self._working[event.name] = _Step(time.monotonic())
                self._update_run()
            elif event.moment is Moment.WORKING and event.work is not None:
                self._show(event.name, event.work)
            elif event.moment is Moment.STAGED:
                step = self._working.get(event.name)
                if step is not None and step.bar is not None:
                    self._update(step, f"{event.name}: commit", 1.0, "")
            elif event.moment is Moment.RECORDED and event.step is not None:
                self._end(event.step)

    def _show(self, name: str, work: StepProgress) -> None:
        """Show the stage, rows, speed and remaining time of a long step."""
        step = self._working[name]
        elapsed = time.monotonic() - step.begun
        speed = work.share * work.size_bytes / 1e6 / elapsed if elapsed else 0
        self._left[name] = elapsed * (1 - work.share) / work.share if work.share else 0
        rows = f"{quantity(int(work.share * work.rows), 'row')}, " if work.rows else ""
        what = f"{name}: {work.stage}" if work.stage else name
        self._update(step, what, work.share, f"{work.share:.0%}, {rows}{speed:,.0f} MB/s")
        self._update_run()

    def _update(self, step: _Step, description: str, share: float, done: str) -> None:
        if step.bar is None:
            step.bar = self._progress.add_task(description, total=1.0, done=done)
        self._progress.update(step.bar, description=description, completed=share, done=done)

    def _update_run(self) -> None:
        """Show the steps without a bar, and the remaining time; waiting steps are assumed to take as long as last time."""
        left = sum(self._left.values())
        words = f"{self._ended}/{self._steps}" + (f", about {left:.0f} s left" if left >= 1 else "")
        short = ", ".join(name for name, step in self._working.items() if step.bar is None)
        what = f"run: {short}" if short else "run"
        self._progress.update(self._run, description=what, completed=self._ended, done=words)

    def _end(self, step: StepRecord) -> None:
        ended = self._working.pop(step.name, None)
        if ended is not None and ended.bar is not None:
            self._progress.remove_task(ended.bar)
        self._left.pop(step.name, None)
        self._ended += 1
        self._update_run()
        self._print(step)

    def _print(self, step: StepRecord) -> None:
        if step.is_unchanged:
            return
        if step.has_failed:
            words = "failed" if step.decision == "failed" else step.reason
            self._progress.console.print(f"[red]✗[/] {step.name}: {escape(words)}")
            return
        rows_out = step.flow.rows_out
        rows = "" if step.verdict else f"{quantity(rows_out, 'row')}, "
        flow = step.flow
        away = [f"{text(n)} {word}" for n, word in ((flow.quarantined, "quarantined"), (flow.dropped, "dropped")) if n]
        rows += "".join(f"[yellow]{part}[/], " for part in away)
        mark = "[red]✗[/]" if step.decision == "refused" else "[green]✓[/]"
        self._progress.console.print(f"{mark} {step.name}: {rows}{step.seconds:.2f} s [dim]({escape(step.reason)})[/]")
