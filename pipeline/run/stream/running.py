"""Several streams in one process, each with a thread of its own, until they are stopped or have caught up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.core.errors import RequestError
from pipeline.core.reading import Extent
from pipeline.run.stream.plan import Planner
from pipeline.run.stream.stream import Asked, Stream
from pipeline.run.stream.tablelog import TableLog
from pipeline.run.workspace import Workspace


@dataclass(frozen=True)
class Wanted:
    """Which streams to run, and for how long."""

    names: tuple[str, ...] = ()
    """Without any, all of the project."""
    until_caught_up: bool = False
    """Whether a stream ends when it has read what its logs held when it began, or a log that ends has ended."""
    drain: bool = False
    """Whether all windows are closed in the end."""
    asked: Asked = field(default_factory=Asked)


class Running:
    """The streams of a project at work."""

    def __init__(
        self, workspace: Workspace, wanted: Wanted, *, reached: Callable[[str, str], None] = lambda _, __: None
    ) -> None:
        """Plan the streams; raise `DefinitionError` for one that has no streamed form, `RequestError` for none."""
        self.workspace = workspace
        self.wanted = wanted
        self._planner = Planner(workspace)
        names = wanted.names or self._planner.streams
        if not names:
            raise RequestError(
                "this project has no streams", do="give a source event_time=, and read it with a table: docs/streams.md"
            )
        ordered = [n for n in workspace.project.graph.names if n in names]
        self.names = (*ordered, *(n for n in names if n not in ordered))
        for name in self.names:
            workspace.stored(name)
        self.streams: dict[str, Stream] = {}
        self.errors: dict[str, BaseException] = {}
        self._reached = reached
        self._stop = threading.Event()
        self._done: set[str] = set()

    def stop(self) -> None:
        """Let every stream commit what it has and end."""
        self._stop.set()

    def run(self, watch: Callable[[Running], None] = lambda _: None, every_s: float = 0.25) -> None:
        """Run until all streams have ended; `watch` is called now and then from this thread.

        The first error stops all streams, and is raised when they have ended; what they committed stays.
        """
        threads = [threading.Thread(target=self._work, args=(name,), name=f"headwater-{name}") for name in self.names]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                watch(self)
                threads[0].join(every_s)
                time.sleep(0 if threads[0].is_alive() else every_s)
        except BaseException:
            self.stop()
            raise
        finally:
            for thread in threads:
                thread.join()
        watch(self)
        for error in self.errors.values():
            raise error

    def _work(self, name: str) -> None:
        try:
            self._wait_for_inputs(name)
            plan = self._planner.plan(name)
            stream = Stream(self.workspace, plan, self.wanted.asked, reached=lambda step: self._reached(name, step))
        except Exception as error:  # noqa: BLE001 - raised by `run`, in its thread
            self._fail(name, error)
            return
        self.streams[name] = stream
        try:
            self._drive(stream)
        except Exception as error:  # noqa: BLE001 - likewise
            self._fail(name, error)
        finally:
            stream.close()
            self._done.add(name)

    def _wait_for_inputs(self, name: str) -> None:
        """A stream below another begins when that one has made its table."""
        above = set(self._planner.workspace.project.graph.upstream(name)) & set(self.names)
        while not self._stop.is_set():
            if all(self.workspace.table(other).number() is not None or other in self._done for other in above):
                return
            time.sleep(0.02)

    def _drive(self, stream: Stream) -> None:
        target = self._target(stream)
        while not self._stop.is_set():
            stream.turn()
            if stream.ended or (self.wanted.until_caught_up and self._has_caught_up(stream, target)):
                break
        if stream.ended or self.wanted.drain:
            stream.drain()
        else:
            stream.save()

    def _target(self, stream: Stream) -> dict[str, int]:
        found: dict[str, Extent] = {}
        for intake in stream.plan.intakes:
            if not isinstance(intake.log, TableLog):
                found |= intake.log.extents()
        return {uri: extent.end for uri, extent in found.items()}

    def _has_caught_up(self, stream: Stream, target: dict[str, int]) -> bool:
        offsets = {uri: o for reached in stream.inputs.values() for uri, o in reached.offsets.items()}
        if any(offsets.get(uri, 0) < end for uri, end in target.items()):
            return False
        for intake in stream.plan.intakes:
            if isinstance(intake.log, TableLog):
                done = intake.name in self._done or intake.name not in self.names
                extent = intake.log.extents()[intake.log.uri]
                if not done or offsets.get(intake.log.uri, 0) < extent.end:
                    return False
        return True

    def _fail(self, name: str, error: BaseException) -> None:
        self.errors[name] = error
        self._done.add(name)
        self.stop()


def catch_up(workspace: Workspace, names: Sequence[str] = (), asked: Asked | None = None) -> Running:
    """Run streams until they have caught up with their logs, and return what ran."""
    running = Running(workspace, Wanted(tuple(names), until_caught_up=True, asked=asked or Asked()))
    running.run()
    return running
