"""Explains one table: decision, strategy, estimates, and the measurements of a trial next to them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

from sqlglot import exp

from cluster.cli.console import grid, out
from pipeline.batch.planning import ExecutionPlan, tree_of
from pipeline.batch.step import StepSpec
from pipeline.batch.work import Outcome
from pipeline.core.definitions import StoredDefinition, Table
from pipeline.core.errors import quantity
from pipeline.core.event_time import format_duration
from pipeline.kernel.aggregates.decomposition import decompose
from pipeline.project.workspace import Workspace
from pipeline.runner.context import PlannedStep
from pipeline.runner.decide import DecisionKind
from pipeline.runner.estimate import Estimate
from pipeline.streaming.planning.plan import Planner, StreamPlan


@dataclass(frozen=True)
class Explained:
    """What is known about a table. `outcome` and `seconds` are set only if the table was computed in a trial."""

    step: PlannedStep
    spec: StepSpec | None = None
    expected: Estimate | None = None
    outcome: Outcome | None = None
    seconds: float = 0.0

    @property
    def execution_plan(self) -> ExecutionPlan | None:
        """How the full table is computed; without a specification, how the next run computes what is new."""
        return self.step.execution_plan if self.spec is None else self.spec.execution_plan

    def facts(self) -> dict[str, object]:
        """Return everything as plain values."""
        decision = self.step.decision
        facts: dict[str, object] = {"name": self.step.definition.name}
        facts |= {"decision": decision.kind, "reason": decision.reason}
        execution_plan = self.execution_plan
        if execution_plan is not None:
            facts |= {
                name: value for name, value in vars(execution_plan).items() if name not in {"exchange", "reason", "why"}
            }
            facts |= {"strategy_reason": execution_plan.reason, "executor_reason": execution_plan.why}
        if self.expected is not None:
            facts["expected"] = asdict(self.expected)
        if self.outcome is not None:
            facts["actual"] = {
                **asdict(self.outcome.flow),
                **asdict(self.outcome.profile),
                "engine_seconds": self.outcome.profile.seconds,
                "seconds": self.seconds,
                "files_out": len(self.outcome.files),
                "fallbacks": dict(self.outcome.fallbacks),
            }
        return facts


def print_explained(workspace: Workspace, explained: Explained) -> None:
    """Print the explanation of a table."""
    definition, execution_plan = explained.step.definition, explained.execution_plan
    out.print(f"[bold]{definition.name}[/]  {definition.description.partition(chr(10))[0]}")
    out.print(f"  location  {definition.place}", soft_wrap=True)
    out.print(f"  decision  {explained.step.decision.kind}: {explained.step.decision.reason}")
    if explained.step.decision.kind is DecisionKind.STREAMED and isinstance(definition, StoredDefinition):
        _print_stream(Planner(workspace).plan(definition.name))
    if execution_plan is None or not isinstance(definition, StoredDefinition):
        return
    out.print(f"  strategy  {execution_plan.strategy}: {execution_plan.reason}")
    out.print(f"  executor  {execution_plan.executor}: {execution_plan.why}")
    for name in definition.inputs if explained.spec is None else explained.spec.scans:
        version = workspace.version(name)
        size = (
            "not computed yet"
            if version is None
            else _size(version.rows, version.scan().size_bytes, len(version.files))
        )
        out.print(f"  reads     {name} {'(split) ' if name == execution_plan.driving else ''}[dim]{size}[/]")
    if explained.expected is not None:
        _print_expected(explained.expected)
    if isinstance(definition, Table):
        _print_parts(definition, execution_plan)
    if explained.expected is not None and explained.outcome is not None:
        _print_actual(explained.expected, explained.outcome, explained.seconds)
    out.print()


def _print_stream(plan: StreamPlan) -> None:
    """Print how a table is streamed: its inputs with their event times, its operator and state, and its output."""
    for stream_input in plan.inputs:
        time = stream_input.time
        words = "no event time" if time is None else f"{time.column}, up to {format_duration(time.lateness)} late"
        if getattr(stream_input, "follows", False):
            words = f"{words}; the watermark of its stream"
        out.print(f"  streams   {stream_input.name} [dim]by {words}[/]")
    for name in plan.lookups:
        out.print(f"  reads     {name} [dim]in its current version[/]")
    if plan.operator is None:
        out.print(f"  state     none: {plan.reason}")
    else:
        tables = ", ".join(plan.operator.state)
        out.print(
            f"  state     {type(plan.operator).__name__.lower()}: {tables}, in shards by key, "
            "spilled to disk beyond the memory budget"
        )
    words = "append-only rows" if plan.emits == "append" else "rows that replace those with the same key"
    out.print(f"  emits     {words}")


def _print_expected(expected: Estimate) -> None:
    passed = expected.files_in_all - expected.files
    skipped = f"; {quantity(passed, 'file')} skipped by the log's statistics" if passed else ""
    size = f"{expected.bytes_in / 1e6 / max(expected.splits, 1):,.1f} MB"
    buckets = f", then {expected.buckets} buckets" if expected.buckets else ""
    out.print(f"  splits    {expected.splits} of about {size}{buckets}, {expected.at_once} at a time{skipped}")
    share, memory = expected.task_bytes / 1e6, expected.memory_bytes / 1e6
    out.print(f"  memory    at most {share:,.0f} MB per task and {memory:,.0f} MB in total; the rest spills to disk")


def _print_parts(definition: Table, execution_plan: ExecutionPlan) -> None:
    if execution_plan.strategy == "partial" or (execution_plan.exchange is not None and execution_plan.exchange.merges):
        apart = decompose(cast("exp.Select", tree_of(definition.transform)))  # the partial strategy implies a SELECT
        out.print(f"  partial   {apart.partial()}", soft_wrap=True)
        out.print(f"  finish    {apart.finish}", soft_wrap=True)
    elif execution_plan.exchange is not None and execution_plan.exchange.finish is not None:
        out.print(f"  bucket    {execution_plan.exchange.statement}", soft_wrap=True)
        out.print(f"  finish    {execution_plan.exchange.finish}", soft_wrap=True)


def _print_actual(expected: Estimate, outcome: Outcome, seconds: float) -> None:
    flow, profile = outcome.flow, outcome.profile
    speed = f"{flow.bytes_in / 1e6 / seconds:,.1f}" if seconds else ""
    spilled = f"{profile.spilled_bytes / 1e6:,.1f}"
    rows: list[tuple[str, object, object]] = [
        ("rows in", expected.rows_in or "", flow.rows_in),
        ("rows out", "" if expected.rows_out is None else expected.rows_out, flow.rows_out),
        ("rows quarantined or dropped", "", flow.quarantined + flow.dropped),
        ("rows superseded or deleted", "", flow.superseded + flow.deletes),
        ("row groups read", profile.row_groups or "", profile.row_groups_read or ""),
        ("memory of a task, MB", f"{expected.task_bytes / 1e6:,.0f}", f"{profile.peak_bytes / 1e6:,.0f}"),
        ("spilled by a task, MB", "", spilled),
        ("files out", "", len(outcome.files)),
        *((f"splits validated: {reason}", "", count) for reason, count in outcome.fallbacks.items()),
        ("MB/s", "", speed),
        ("seconds", "", f"{seconds:.2f}"),
    ]
    rows = [row for row in rows if row[0] != "rows superseded or deleted" or row[2]]
    grid(None, ("", "expected", "actual"), rows, right="expected, actual")


def _size(rows: int, size_bytes: int, files: int) -> str:
    return f"{quantity(rows, 'row')}, {size_bytes / 1e6:,.1f} MB in {quantity(files, 'file')}"
