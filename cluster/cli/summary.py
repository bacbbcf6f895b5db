"""Prints a run as a table: the action for each definition, and its row counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.markup import escape

from cluster.cli.console import grid, out
from pipeline.core.errors import few, quantity
from pipeline.governance import RunRecord, StepRecord

_DONE = {
    "create": "created",
    "refresh": "refreshed",
    "rebuild": "rebuilt",
    "append": "appended",
    "merge": "merged",
    "skip": "up to date",
    "streamed": "streamed",
}
_COUNTS = ("rows_in", "rows_out", "quarantined", "dropped", "late")
_MERGED = ("superseded", "deletes")
"""Additional columns for runs with merged tables."""


_UNFINISHED = {
    "running": "this run has not ended: tables that are not listed are still to come",
    "stopped": "this run was interrupted: its tables are committed; those that are not listed are computed by the next run",
}
"""What is said of runs without a step for each table."""


def print_summary(run: RunRecord) -> None:
    """Print a run: row counts, seconds and MB/s per table, and why steps were skipped."""
    counted = [*_COUNTS, *(name for name in _MERGED if any(getattr(step.flow, name) for step in run.steps))]
    numbers = (*(name.replace("_", " ") for name in counted), "seconds", "MB/s", "total rows")
    grid(
        f"Run {run.run_id} of {run.project} ({run.env}): {run.status}",
        ("table", "action", *numbers),
        [_row(step, counted) for step in run.steps],
        right=", ".join(numbers),
    )
    for step in run.steps:
        if step.decision == "upstream_failed":
            out.print(f"[yellow]{escape(step.name)}[/] {escape(step.reason)}")
    out.print(f"[bold]{_total(run)}[/]")
    if run.status in _UNFINISHED:
        out.print(f"[yellow]{_UNFINISHED[run.status]}[/]")
    quarantined = [step.name for step in run.steps if step.flow.quarantined]
    if quarantined:
        command = f"show {quarantined[0]}" if len(quarantined) == 1 else "ls"
        out.print(f"quarantined rows of {few(quarantined)}: headwater quarantine {command}")


def _total(run: RunRecord) -> str:
    computed = [step for step in run.steps if step.is_done]
    counts = {
        "done": len(computed),
        "failed": sum(step.decision == "failed" for step in run.steps),
        "skipped": sum(step.decision == "upstream_failed" for step in run.steps),
        "up to date": sum(step.decision == "skip" for step in run.steps),
        "updated by headwater stream": sum(step.decision == "streamed" for step in run.steps),
    }
    if counts["up to date"] == len(run.steps) and run.status not in _UNFINISHED:
        return f"nothing new: all {len(run.steps)} are up to date"
    parts = [f"{count} {word}" for word, count in counts.items() if count or word in {"done", "up to date"}]
    rows = sum(step.flow.rows_out for step in computed)
    rejected = [
        f"{number:,} {word}"
        for word in ("quarantined", "dropped")
        if (number := sum(getattr(s.flow, word) for s in computed))
    ]
    if run.ended_at is not None:
        lasted = datetime.fromisoformat(run.ended_at) - datetime.fromisoformat(run.started_at)
        rejected.append(f"{lasted.total_seconds():.1f} s")
    return ", ".join([*parts, f"{quantity(rows, 'row')} written", *rejected])


def _row(step: StepRecord, counted: Sequence[str]) -> tuple[object, ...]:
    did = _DONE.get(step.decision, step.outcome)
    if not step.is_done:
        return (step.name, did, *("" for _ in counted), f"{step.seconds:.2f}", "", step.total_rows or "")
    if step.verdict is not None:
        return (step.name, did, step.flow.rows_in, *("" for _ in counted[1:]), f"{step.seconds:.2f}", "", "")
    flow = step.flow
    speed = f"{flow.bytes_in / 1e6 / step.seconds:,.1f}" if step.seconds and flow.bytes_in else ""
    return (step.name, did, *(getattr(flow, name) for name in counted), f"{step.seconds:.2f}", speed, step.total_rows)
