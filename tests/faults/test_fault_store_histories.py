"""Appends, merges, compactions, vacuums and clean-ups of a table, each through a store that loses, delays or refuses a request.

A step that fails is repeated as a run or a maintainer repeats it: with new files, unless what it wrote was committed. The
oracle is a dictionary of the rows. Requests of each kind are disturbed, not only those to the log.
"""

from __future__ import annotations

import datetime as dt
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from pipeline.core.definitions import Merge
from pipeline.core.errors import ConflictError, OutcomeUnknownError, StorageError
from pipeline.core.lake_policy import LakePolicy
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest, StagedFile
from pipeline.kernel.engine import connect
from pipeline.lake import Lake, LakeTable, MergeSpec, Version, compact, merge, plan_vacuum, vacuum
from pipeline.lake.log import entries
from pipeline.lake.log_files import LogFiles
from pipeline.lake.log_maintenance import tidy
from tests.faults.test_fault_store import LOG, QUICK
from tests.faults.test_fault_store import proxy as proxy  # noqa: PLC0414 - the fixture
from tests.rigs.proofs import examples
from tests.rigs.proxy import Fault, Proxy, Rule

SCHEMA = Schema.of({"k": "BIGINT", "s": "BIGINT", "v": "BIGINT"})
HOW = Merge(("s",), "v < 0")
REQUESTS = {
    "append": [
        ("PUT", LOG),
        ("PUT", "/part-"),
        ("PUT", r"_headwater/[0-9a-f]{16}\.json"),
        ("GET", LOG),
        ("GET", "list-type"),
    ],
    "compact": [("PUT", LOG), ("PUT", "/part-compacted"), ("GET", r"\.parquet"), ("GET", "list-type")],
    "vacuum": [
        ("PUT", "checkpoint"),
        ("PUT", "_headwater/"),
        ("POST", "delete"),
        ("DELETE", "_headwater/maintenance/"),
        ("GET", "list-type"),
        ("GET", "_headwater/"),
    ],
}
REQUESTS |= {"merge": [*REQUESTS["append"], ("GET", r"\.parquet")], "tidy": REQUESTS["vacuum"]}
KINDS = [
    (Fault.LIE, 500, 1),
    (Fault.LIE, 503, 1),
    (Fault.DROP, 0, 1),
    (Fault.HANG, 0, 1),
    (Fault.REFUSE, 503, 1),
    (Fault.REFUSE, 503, 3),
    (Fault.REFUSE, 500, 1000),
    (Fault.REFUSE, 409, 2),
    (Fault.REFUSE, 412, 1),
    (Fault.DELAY, 0, 2),
]


@dataclass
class History:
    """A table behind the proxy, the same table without it, and the rows that it must have."""

    table: LakeTable
    direct: LakeTable
    proxy: Proxy
    dice: random.Random
    rows: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By key: the sequence of its last change, and its value, which is negative for a deleted row."""
    runs: list[str] = field(default_factory=list)
    seen: Version | None = None
    """The version before the last commit."""
    failures: Counter[str] = field(default_factory=Counter)

    def step(self, kind: str) -> None:
        """Do something to the table while a request fails, until it is done, and check all rows."""
        fault, status, times = self.dice.choice(KINDS)
        method, pattern = self.dice.choice(REQUESTS[kind])
        self.proxy.rule(Rule(method, pattern, fault, status, times, delay_s=0.2))
        getattr(self, kind)()
        self.proxy.rule()
        assert sorted(self.stored()) == sorted((k, s, v) for k, (s, v) in self.rows.items() if v >= 0), kind

    def stored(self) -> list[tuple[int, int, int]]:
        rows = Lake(self.direct.storage).rows(self.direct)
        return list(zip(*(rows[name].to_pylist() for name in SCHEMA.names), strict=True))

    def repeated(self, attempt: Callable[[], object], is_done: Callable[[], bool] | None = None) -> None:
        """Repeat an attempt once the store is well again, if it failed and was not applied."""
        errors = (OutcomeUnknownError, StorageError) if is_done else (ConflictError, OutcomeUnknownError, StorageError)
        try:
            attempt()
        except errors as error:
            self.failures[type(error).__name__] += 1
            self.proxy.rule()
            if is_done is None or not is_done():
                attempt()

    def written(self, changes: dict[int, tuple[int, int]], commit: Callable[[str, Version | None], Version]) -> None:
        tried: list[str] = []

        def attempt() -> None:
            tried.append(f"r{len(self.runs)}-{len(tried)}")
            self.seen = self.table.version()
            version = commit(tried[-1], self.seen)
            assert version.manifest.run_id == tried[-1]

        self.repeated(attempt, lambda: (v := self.table.version()) is not None and v.manifest.run_id in tried)
        self.runs.append(tried[-1])
        for key, change in changes.items():
            self.rows[key] = max(self.rows.get(key, change), change, key=lambda c: c[0])

    def staged(self, run: str, changes: dict[int, tuple[int, int]]) -> tuple[StagedFile, ...]:
        values = ", ".join(f"({k}::bigint, {s}::bigint, {v}::bigint)" for k, (s, v) in changes.items())
        with connect(filesystem=self.table.storage.filesystem()) as con:
            return self.table.stager(run).stage(con, f"select * from (values {values}) t(k, s, v)", 0)

    def append(self) -> None:
        first = 1000 * (len(self.runs) + 1)
        changes = {first + n: (0, n) for n in range(3)}

        def commit(run: str, seen: Version | None) -> Version:
            return self.table.commit(Manifest("t", run, "f", "append"), self.staged(run, changes), SCHEMA, seen)

        self.written(changes, commit)

    def merge(self) -> None:
        sequence = len(self.runs) + 1
        changes = {k: (sequence, self.dice.randrange(-1, 5)) for k in self.dice.sample(range(12), 5)}

        def commit(run: str, seen: Version | None) -> Version:
            files = self.staged(run, changes)
            result = merge(MergeSpec(self.table, ("k",), HOW, run, files, SCHEMA, seen))
            mode = "overwrite" if seen is None else "merge"
            manifest = Manifest("t", run, "f", mode, tombstones=result.tombstones)
            return self.table.commit(manifest, result.files, SCHEMA, seen, result.removed)

        self.written(changes, commit)

    def compact(self) -> None:
        self.repeated(lambda: compact(self.table, self.table.head()))

    def vacuum(self) -> None:
        self.repeated(lambda: vacuum(self.table))

    def tidy(self) -> None:
        self.repeated(lambda: tidy(self.table.place, versions=3, history=dt.timedelta()))

    def late(self) -> None:
        """Let a writer that was suspended before the last commit go on: it changes nothing."""
        manifest = Manifest("t", f"late-{len(self.runs)}", "f", "append")
        with pytest.raises(ConflictError):
            self.table.commit(manifest, self.staged(manifest.run_id, {-1: (1, 1)}), SCHEMA, self.seen)

    def finished(self) -> None:
        """Check that each commit was applied once, and that after a vacuum exactly the files of the newest version are left."""
        log = entries(self.direct.storage, 0, self.direct.number())
        if log is not None:
            of_runs = Counter(entry.manifest_id for entry in log if not entry.moved)
            assert set(of_runs.values()) == {1}
            assert len(of_runs) == len(self.runs)
        time.sleep(1.1)  # the times of the store are in seconds
        vacuum(self.direct)
        assert plan_vacuum(self.direct).files == {}
        version = self.direct.version()
        there = frozenset(self.direct.storage.names())
        assert {file.uri.removeprefix(f"{self.direct.storage.uri}/") for file in version.files} <= there
        assert {file.path for file in version.manifest.tombstones} <= there
        assert LogFiles.of(self.direct.storage).readable() == (version.number,)


@pytest.mark.share(1)
@pytest.mark.fault(3, 4, 5, 6, 7)
@pytest.mark.parametrize("seed", range(40))
def test_no_history_through_a_failing_store_loses_or_doubles_a_row(s3, proxy, seed, record_property):
    dice = random.Random(seed)  # noqa: S311 - a seed for faults
    name, policy = uuid.uuid4().hex, LakePolicy(history=dt.timedelta())
    through = s3.storage(name, port=proxy.port, **QUICK)
    proxy.rule()
    table, direct = (
        replace(Lake(storage).table("silver", "t"), policy=policy) for storage in (through, s3.storage(name))
    )
    history, before = History(table, direct, proxy, dice), len(proxy.seen)
    history.merge()
    for _ in range(examples(3, 25)):
        history.step(dice.choice(["append", "append", "merge", "merge", "compact", "vacuum", "tidy"]))
        if dice.random() < 0.2:
            history.late()
    proxy.rule()
    history.finished()
    disturbed = sum(each.fault is not None for each in proxy.seen[before:])
    record_property(f"disturbed requests and failed steps, seed {seed}", f"{disturbed}, {dict(history.failures)}")
    assert disturbed > 0
