"""`headwater stream` and `headwater verify`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from cluster.cli.console import err, grid, open_workspace, out, print_json, text
from cluster.cli.live import EVERY_S, latency, live_view, quarantined
from cluster.cli.metrics import metrics_at
from cluster.cli.options import HERE, Env, Folder, Json
from cluster.cli.reporting import try_update_report
from cluster.cli.stopping import stoppable
from pipeline.core.errors import RequestError, few, quantity
from pipeline.project.workspace import Workspace
from pipeline.streaming.runtime.autoscaling import parse_shards
from pipeline.streaming.runtime.exposition import exposition
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions
from pipeline.streaming.runtime.metrics import StreamStatus
from pipeline.streaming.runtime.options import StreamOptions
from pipeline.streaming.runtime.start import StateMode
from pipeline.streaming.runtime.start_position import parse_start
from pipeline.streaming.runtime.status import lease_facts
from pipeline.streaming.runtime.verify import verify as verify_stream

Names = Annotated[list[str] | None, typer.Argument(help="Names of streams' tables (default: all).")]
UntilCaughtUp = Annotated[bool, typer.Option("--until-caught-up", help="End when the current input has been read.")]
Begin = Annotated[
    str,
    typer.Option(
        "--from",
        help="Start position: committed, earliest or latest (both recreate the table), a time like 2024-05-01T12:00, "
        "or offsets by partition as JSON or in a file.",
    ),
]
Anew = Annotated[bool, typer.Option("--anew", help="With a time or offsets: recreate an existing table.")]
Restore = Annotated[str | None, typer.Option(help="Restore this savepoint first.")]
Drain = Annotated[bool, typer.Option("--drain", help="Close all windows at the end.")]
Shards = Annotated[
    str | None,
    typer.Option(
        help="Number of state shards (default: number of cores), or a range like 1..4 within which each stream scales itself."
    ),
]
RebuildState = Annotated[
    bool,
    typer.Option(
        "--rebuild-state",
        help="Recompute the state by the current definition, from the log up to the last commit; keep the rows.",
    ),
]
KeepState = Annotated[
    bool, typer.Option("--keep-state", help="Keep the state although the definition it depends on has changed.")
]
AcceptGaps = Annotated[
    bool, typer.Option("--accept-gaps", help="Continue after records that a log deleted before they were read.")
]
TakeOver = Annotated[bool, typer.Option("--take-over", help="Take streams over from the process that runs them.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop all streams when one fails.")]
MetricsPort = Annotated[
    int | None, typer.Option(help="Serve Prometheus metrics on this port of loopback.", min=0, max=65535)
]


def stream(
    names: Names = None,
    until_caught_up: UntilCaughtUp = False,
    begin: Begin = "committed",
    anew: Anew = False,
    restore: Restore = None,
    drain: Drain = False,
    shards: Shards = None,
    rebuild_state: RebuildState = False,
    keep_state: KeepState = False,
    accept_gaps: AcceptGaps = False,
    take_over: TakeOver = False,
    fail_fast: FailFast = False,
    metrics_port: MetricsPort = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Run streams until Ctrl-C, with an exactly-once commit every half second. `headwater streams` manages them."""
    if restore is not None and begin != "committed":
        raise RequestError("--restore and --from cannot be combined", do="use one of them")
    options = StreamJobOptions(
        names=tuple(names or ()),
        until_caught_up=until_caught_up,
        drain=drain,
        stream_options=StreamOptions(
            shards=None if shards is None else parse_shards(shards),
            anew=anew,
            accept_gaps=accept_gaps,
            state=_state_mode(begin, rebuild=rebuild_state, keep=keep_state),
        ),
        begin=parse_start(begin),
        restore=restore,
        take_over=take_over,
        fail_fast=fail_fast,
    )
    code = _run(open_workspace(folder, env), options, metrics_port, as_json=as_json)
    if code:
        raise typer.Exit(code)


def _state_mode(begin: str, *, rebuild: bool, keep: bool) -> StateMode:
    if rebuild and keep:
        raise RequestError("--keep-state and --rebuild-state cannot be combined", do="use one of them")
    if (rebuild or keep) and begin != "committed":
        raise RequestError(
            "--keep-state and --rebuild-state apply to a stream that resumes from its last commit",
            got=f"--from {begin}",
            do="omit --from",
        )
    return "rebuild" if rebuild else "keep" if keep else "restore"


def _run(workspace: Workspace, options: StreamJobOptions, metrics_port: int | None, *, as_json: bool) -> int:
    """Run streams until they end, show their status, and return the exit code."""
    with ExitStack() as stack:
        view = stack.enter_context(live_view(err, quiet=as_json))
        running = StreamJob(workspace, options, on_restart=view.say)
        stopped = stack.enter_context(
            stoppable(running.stop, lambda: None if as_json else err.print("[dim]committing pending rows …[/]"))
        )
        port = stack.enter_context(metrics_at(metrics_port, lambda: _metrics(running), lambda: running.is_ready))
        if not as_json and not options.names:
            for name, reason in running.left_out.items():
                err.print(f"[dim]{name} is not streamed: {escape(reason)}[/]")
        if port is not None and not as_json:
            err.print(f"[dim]metrics at http://127.0.0.1:{port}/metrics[/]")
        try:
            running.run(view.show, EVERY_S)
        finally:
            stack.close()
            _sum_up(running, as_json=as_json)
            if any(status.epoch for status in running.statuses.values()):
                try_update_report(workspace.project, workspace.catalog, quiet=as_json)
    return stopped.code


def _metrics(running: StreamJob) -> str:
    return exposition(list(running.statuses.values()), [follower.status for follower in running.sinks.values()])


def verify(
    name: Annotated[str, typer.Argument(help="Name of a stream's table.")],
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Recompute a stream's table in batch and compare the two row by row."""
    comparison = verify_stream(open_workspace(folder, env), name)
    if as_json:
        print_json(comparison)
    else:
        mark = "[green]✓[/]" if comparison.holds else "[red]✗[/]"
        out.print(
            f"{mark} {name} at epoch {comparison.epoch}: "
            f"{quantity(comparison.rows_read, 'row')} read, {text(comparison.rows_aside)} rejected; "
            f"{quantity(comparison.rows_there, 'row')} in the table and {text(comparison.rows_remembered)} in the state, "
            f"{text(comparison.rows_expected)} in batch: {text(comparison.missing)} missing, {text(comparison.unexpected)} unexpected"
            + (f", {text(comparison.doubled)} duplicate keys" if comparison.doubled else "")
        )
        if comparison.lost:
            out.print(
                f"the log no longer has {text(comparison.lost)} of the consumed rows (compacted topic, removed files), "
                "so their results cannot be recomputed"
            )
        if comparison.differences:
            grid(None, tuple(comparison.differences[0]), [tuple(row.values()) for row in comparison.differences])
    if not comparison.holds:
        raise typer.Exit(1)


def _sum_up(running: StreamJob, *, as_json: bool) -> None:
    """Print how each stream ended."""
    known = [facts for facts in running.statuses.values() if facts.status != "starting"]
    if as_json:
        if not running.errors:
            sinks = {name: asdict(follower.status) for name, follower in running.sinks.items()}
            print_json({facts.name: {**_json(facts), **facts.totals} for facts in known} | sinks)
        return
    for facts in known:
        mark = "[red]✗[/]" if facts.status == "failed" else "[green]✓[/]"
        counts = f"{quantity(facts.totals.get('rows_in', 0), 'row')} in, {text(facts.totals.get('rows_out', 0))} out"
        away = [f"{quarantined(facts)} quarantined"] if facts.totals.get("quarantined") else []
        away += [f"{text(facts.totals['dropped'])} dropped"] if facts.totals.get("dropped") else []
        away += [quantity(facts.restarts, "restart")] if facts.restarts else []
        away += [f"workers lost and replaced {quantity(facts.recoveries, 'time')}"] if facts.recoveries else []
        away += [f"latency {latency(facts)}"] if facts.latency.count else []
        out.print(f"{mark} {facts.name}: {facts.status} at epoch {text(facts.epoch)}, {', '.join([counts, *away])}")
        if facts.waits_for and facts.status in {"ended", "stopped"}:
            out.print(
                f"  {quantity(facts.state_rows, 'row')} of state {'is' if facts.state_rows == 1 else 'are'} kept: event time waits for {few(facts.waits_for, 3)}; "
                "idle_after= on the source excludes idle partitions, --drain closes open windows"
            )
        if facts.status == "failed" and len(running.errors) > 1:
            out.print(f"  {escape(facts.error)}")
    for follower in running.sinks.values():
        sink = follower.status
        mark = "[red]✗[/]" if sink.status == "failed" else "[green]✓[/]"
        out.print(
            f"{mark} {sink.name}: {sink.status} at version {text(sink.version)}, {quantity(sink.rows, 'row')} delivered"
        )


def _json(facts: StreamStatus) -> dict[str, object]:
    summary = lease_facts(facts)
    quantiles = {f"latency_p{int(q * 100)}_s": facts.latency.quantile(q) for q in (0.5, 0.99)}
    return {**summary, **quantiles, "commits": facts.commits, "phases_s": dict(facts.phases_s)}
