"""One stream from its opening to its end: turns, pauses, what it is asked for, and going on after errors that may pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from pipeline.core.clock import now
from pipeline.core.errors import HeadwaterError, NewColumnsError, UnavailableError
from pipeline.core.sources import Extent
from pipeline.kernel.engine import is_of_files
from pipeline.streaming.planning.plan import Planner, StreamPlan
from pipeline.streaming.runtime.lease_manager import LeaseManager
from pipeline.streaming.runtime.metrics import StreamMetrics, StreamStatus
from pipeline.streaming.runtime.restart_policy import RestartPolicy, may_pass
from pipeline.streaming.runtime.savepoints import restore
from pipeline.streaming.runtime.start import StartPosition
from pipeline.streaming.runtime.start_position import RequestedStart, resolved
from pipeline.streaming.runtime.status import status_of
from pipeline.streaming.runtime.stream import Stream, StreamOptions

NOTE_EVERY_S = 0.2
_PAUSED_S = 0.1


@dataclass(frozen=True)
class StreamJobOptions:
    """Which streams to run, and for how long."""

    names: tuple[str, ...] = ()
    """Without any, all of the project."""
    until_caught_up: bool = False
    """Whether a stream ends when it has read what its logs held when it began, or a log that ends has ended."""
    drain: bool = False
    """Whether all windows are closed in the end."""
    asked: StreamOptions = field(default_factory=StreamOptions)
    begin: RequestedStart | None = None
    """Where to begin, in place of what is `asked`: it may be a time."""
    restore: str | None = None
    """A savepoint to go back to first."""
    take_over: bool = False
    """Whether the streams are taken from another process that runs them."""
    fail_fast: bool = False
    """Whether the first stream that fails stops the others."""
    patience: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass
class StreamJobContext:
    """What the streams of a process share."""

    planner: Planner
    wanted: StreamJobOptions
    names: tuple[str, ...]
    holding: LeaseManager
    reached: Callable[[str, str], None] = lambda _, __: None
    tell: Callable[[str, str], None] = lambda _, __: None
    """Hears of each restart, with the stream's name and the words."""
    stop: threading.Event = field(default_factory=threading.Event)
    done: set[str] = field(default_factory=set)
    streams: dict[str, Stream] = field(default_factory=dict)
    facts: dict[str, StreamStatus] = field(default_factory=dict)


class StreamDriver:
    """Drives one stream, in the thread that calls `run`."""

    def __init__(self, name: str, together: StreamJobContext) -> None:
        """Keep the stream's name; nothing is opened yet."""
        self.name = name
        self.meter = StreamMetrics()
        self._together = together
        self._restarts: list[float] = []
        self._asked = together.wanted.asked
        self._was_opened = False
        self._noted = 0.0
        self._waits_since = now()

    def run(self) -> None:
        """Run the stream to its end; raise what it cannot go on after."""
        together = self._together
        try:
            self._wait_for_inputs()
            while not together.stop.is_set():
                try:
                    self._once()
                    break
                except Exception as error:
                    if not self._goes_on_after(error):
                        raise
        except Exception as error:
            self._say("failed", str(error))
            raise
        if together.facts[self.name].status not in {"ended", "stopped"}:
            self._say("stopped")

    def _once(self) -> None:
        plan = self._together.planner.plan(self.name)
        with closing(self._opened(plan)) as stream:
            stream.meter = self.meter
            self._together.streams[self.name] = stream
            self._was_opened = True
            try:
                self._drive(stream)
            except Exception:
                self._begin_again(stream)
                raise

    def _opened(self, plan: StreamPlan) -> Stream:
        together, wanted = self._together, self._together.wanted
        if not self._was_opened:
            if wanted.restore is not None:
                restore(together.planner.workspace, plan, wanted.restore)
            if wanted.begin is not None:
                self._asked = replace(self._asked, begin=resolved(plan, wanted.begin))
        return Stream(together.planner.workspace, plan, self._asked, reached=self._heard)

    def _begin_again(self, stream: Stream) -> None:
        """Let the next opening go on from the commits, or where this one began if there was none."""
        if self.meter.commits:
            self._asked = replace(self._asked, begin="committed", anew=False, state="restore")
        elif self._asked.begin != "committed":
            began: StartPosition = {uri: o for reached in stream.inputs.values() for uri, o in reached.began.items()}
            self._asked = replace(self._asked, begin=began, anew=True)

    def _goes_on_after(self, error: Exception) -> bool:
        together = self._together
        lake = together.planner.workspace.lake.storage
        if is_of_files(error) and not lake.is_local:
            error = lake.failed("the lake does not answer a query", error)
        is_away, has_grown = isinstance(error, UnavailableError), isinstance(error, NewColumnsError)
        if has_grown and self._has_new_plan():
            together.tell(self.name, f"{error} — goes on from its last commit with these")
            return not together.stop.is_set()
        if together.stop.is_set() or not (may_pass(error) or has_grown) or not (self._was_opened or is_away):
            return False
        wait_s = together.wanted.patience.wait_s(self._restarts, time.monotonic(), error)
        if wait_s is None:
            return False
        self._restarts.append(time.monotonic())
        self.meter.restarted()
        if is_away and together.facts[self.name].status != "waiting":
            self._waits_since = now()
        since = f"since {self._waits_since:%H:%M:%S} UTC: " if is_away else ""
        self._say("waiting" if is_away else "restarting", f"{since}{error}")
        lately = f"restart {len(self._restarts)} in {wait_s:g} s"
        together.tell(self.name, f"{error} — goes on from its last commit: {lately}")
        together.stop.wait(wait_s)
        return True

    def _has_new_plan(self) -> bool:
        """Plan the stream anew, since columns came; return whether it has other columns now."""
        planner = self._together.planner
        before = planner.plan(self.name).schema
        planner.forget(self.name)
        try:
            return planner.plan(self.name).schema != before
        except HeadwaterError:
            return False  # the next try to open it says what it is

    def _heard(self, step: str) -> None:
        if step in {"staged", "saved"}:
            self._together.holding.require(self.name)
        self.meter.reached(step)
        self._together.reached(self.name, step)

    # -- driving

    def _drive(self, stream: Stream) -> None:
        together, wanted = self._together, self._together.wanted
        target = _target(stream)
        wish = "run"
        while not together.stop.is_set():
            wish = together.holding.wish(self.name)
            together.holding.require(self.name)
            if wish == "pause":
                self._pause(stream)
                continue
            if wish in {"drain", "stop"}:
                break
            stream.turn()
            self._note(stream, "waiting" if stream.unanswered else "running")
            if stream.ended or (wanted.until_caught_up and self._has_caught_up(stream, target)):
                break
        is_over = stream.ended or wanted.drain or wish == "drain"
        if is_over:
            self._note(stream, "draining", at_once=True)
            stream.drain()
        else:
            stream.save()
        has_ended = is_over or (wish != "stop" and not together.stop.is_set())
        self._note(stream, "ended" if has_ended else "stopped", at_once=True)

    def _pause(self, stream: Stream) -> None:
        stream.save()
        holding, stop = self._together.holding, self._together.stop
        while holding.wish(self.name) == "pause" and not stop.wait(_PAUSED_S):
            holding.require(self.name)
            self._note(stream, "paused")

    def _note(self, stream: Stream, status: str, *, at_once: bool = False) -> None:
        instant = time.monotonic()
        if at_once or instant - self._noted >= NOTE_EVERY_S or self._together.facts[self.name].status != status:
            self._noted = instant
            known = self._together.facts[self.name]
            if status == "waiting" and known.status != "waiting":
                self._waits_since = now()
            error = f"{_named(stream.unanswered)} does not answer since {self._waits_since:%H:%M:%S} UTC"
            facts = status_of(stream, self.meter, status, now())
            self._together.facts[self.name] = replace(facts, error=error) if status == "waiting" else facts

    def _say(self, status: str, error: str = "") -> None:
        known = self._together.facts[self.name]
        self._together.facts[self.name] = replace(
            known, status=status, error=error or known.error, restarts=self.meter.restarts, rows_per_s=0, bytes_per_s=0
        )

    def _wait_for_inputs(self) -> None:
        """A stream below another begins when that one has made its table, anew where all are made anew."""
        together = self._together
        workspace = together.planner.workspace
        above = set(workspace.project.graph.upstream(self.name)) & set(together.names)
        while not together.stop.is_set():
            if all(other in together.done or self._has_begun(other) for other in above):
                return
            together.stop.wait(0.02)

    def _has_begun(self, other: str) -> bool:
        together = self._together
        if together.wanted.begin in {"earliest", "latest"} and other in together.names:
            stream = together.streams.get(other)  # what was there before it is on its way out
            return stream is not None and stream.meter.commits > 0
        return together.planner.workspace.table(other).number() is not None

    def _has_caught_up(self, stream: Stream, target: Mapping[str, int]) -> bool:
        offsets = {uri: o for reached in stream.inputs.values() for uri, o in reached.offsets.items()}
        if any(offsets.get(uri, 0) < end for uri, end in target.items()):
            return False
        together = self._together
        for intake in stream.plan.intakes:
            if intake.is_of_lake:
                done = intake.name in together.done or intake.name not in together.names
                if not done or any(offsets.get(uri, 0) < e.end for uri, e in intake.log.extents().items()):
                    return False
        return True


def _named(inputs: Sequence[str]) -> str:
    return "the source of " + ", ".join(map(repr, inputs))


def _target(stream: Stream) -> dict[str, int]:
    found: dict[str, Extent] = {}
    for intake in stream.plan.intakes:
        if not intake.is_of_lake:
            found |= intake.log.extents()
    return {uri: extent.end for uri, extent in found.items()}
