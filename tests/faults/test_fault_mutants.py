"""Mutation tests of the streaming code: the oracle or an error detects each mutant.

Mutants of the protocol alone are in the simulator.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from pipeline.core.errors import ConflictError
from pipeline.lake.head import TableHead
from pipeline.streaming.operators import snapshots
from pipeline.streaming.operators.panes import Panes
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime import opening
from pipeline.streaming.runtime.options import StreamOptions
from pipeline.streaming.runtime.stream import Stream
from tests.faults.streams import AT_ONCE, Clicks, oracle


class Crash(Exception):  # noqa: N818
    """Simulates a crash of the process."""


@dataclass(frozen=True)
class Mutant:
    """A function with a changed source, patched in every module that imports it."""

    owner: Any
    name: str
    old: str
    new: str
    caught_by: str = "oracle"
    """The function here whose assertion must catch it: whatever else is raised is a mistake in the mutant."""

    @property
    def source(self) -> str:
        """The current source of the function."""
        return textwrap.dedent(inspect.getsource(getattr(self.owner, self.name)))

    def put(self, monkeypatch: pytest.MonkeyPatch) -> None:
        function, source = getattr(self.owner, self.name), self.source
        assert self.old in source, f"{self.name} has no {self.old!r} any more"
        known = vars(sys.modules[function.__module__])
        namespace: dict[str, Callable[..., Any]] = {}
        code = compile(
            source.replace(self.old, self.new),
            "mutant",
            "exec",
            dont_inherit=True,
            flags=__import__("__future__").annotations.compiler_flag,
        )
        exec(code, known, namespace)  # noqa: S102 - source of this project
        monkeypatch.setattr(self.owner, self.name, namespace[self.name])
        for module in [m for n, m in sys.modules.items() if n.startswith("pipeline.")]:
            if getattr(module, self.name, None) is function:
                monkeypatch.setattr(module, self.name, namespace[self.name])


MUTANTS = {
    "through a newly opened table": Mutant(
        TableHead,
        "commit_files",
        "if self._has_conflict or self._newest_manifest_id() != self.manifest_id:",
        "if (self._reload(), setattr(self, 'manifest_id', self._newest_manifest_id()), False)[2]:",
        "disturbed",  # the second of two concurrent streams must fail
    ),
    "base forgotten": Mutant(
        snapshots, "required_files", "number >= last.get(file.shard, 0)", "number > last.get(file.shard, 0)"
    ),
    "pending kept": Mutant(
        Stream,
        "commit",
        "self.progress, self._replaces_table, self._pending = progress, False, PendingRows(time.monotonic())",
        "self.progress, self._replaces_table = progress, False",
    ),
    "no post-commit at start": Mutant(opening, "open_at", "update_quarantine(", "(lambda *_: None)("),
    "no base after resharding": Mutant(opening, "open_at", "epoch.shards != shards", "False"),
    "committed offsets ignored": Mutant(opening, "positioned", "**known.offsets", "", "committed_once_each"),
    "late by one": Mutant(Panes, "prepare", "< {closed + slide}", "< {closed}"),
}
QUICK = {"through a newly opened table", "pending kept"}


def run_micro_batches(stream: Stream, count: int) -> None:
    for _ in range(count):
        stream.run_micro_batch()
    stream.wait()


def disturbed(folder) -> dict[str, Counter[str]]:
    """Crash at two steps, run two concurrent streams, restart with the same shards; return the tables, which the oracle checked."""
    small = Clicks(folder, count=60, step=6, partitions=2).write()
    plan = Planner(small.workspace()).plan("minutes")

    @contextmanager
    def opened(shards: int, step: str = "") -> Iterator[Stream]:
        def reached(at: str) -> None:
            if at == step and stream.progress.epoch >= 2:
                raise Crash

        stream = Stream(
            small.workspace(), plan, StreamOptions(intervals=AT_ONCE, shards=shards, source_tasks=1), on_step=reached
        )
        with closing(stream):
            yield stream

    for number, step in enumerate(("saved", "committed")):
        with opened(1 + number, step) as stream, pytest.raises(Crash):
            run_micro_batches(stream, 3)
    with opened(1) as first, opened(2) as second, pytest.raises(ConflictError):
        run_micro_batches(first, 1) or run_micro_batches(second, 1)
    with opened(2) as stream:
        run_micro_batches(stream, 3)
    with opened(2) as stream:
        while not stream.last.has_ended:
            stream.run_micro_batch()
        stream.drain()
    return oracle(small, ("minutes",))


def test_the_oracle_holds_without_a_mutant(tmp_path):
    assert sum(disturbed(tmp_path / "project")["minutes"].values()) > 0


def test_every_mutant_changes_the_code():
    assert [name for name, mutant in MUTANTS.items() if mutant.old not in mutant.source] == []


@pytest.mark.fault(1, 2, 3, 7, 8, 26)
@pytest.mark.parametrize("mutant", [pytest.param(m, marks=[] if m in QUICK else [pytest.mark.proof]) for m in MUTANTS])
def test_every_mutant_is_caught(tmp_path, monkeypatch, mutant, record_property):
    MUTANTS[mutant].put(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        disturbed(tmp_path / "project")
    frames = [frame.name for frame in traceback.extract_tb(caught.tb) if "/tests/faults/" in frame.filename]
    assert frames[-1] == MUTANTS[mutant].caught_by, f"{frames[-1]}: {caught.value!r}"
    record_property(f"mutant of the code: {mutant}", str(caught.value).partition("\n")[0][:120])
