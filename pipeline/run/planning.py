"""From a table's definition and its inputs to the work of one step: strategy, splits and executor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from pipeline.core.definitions import Source, Stored, Table
from pipeline.core.execution import Execution
from pipeline.core.functions import FunctionTransform
from pipeline.core.reading import Piece
from pipeline.kernel.plan import Plan, plan
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql import SqlTransform
from pipeline.warehouse.modelling import FactTransform


@dataclass(frozen=True)
class Route:
    """How a definition is computed: the strategy, where, and the reasons in words."""

    strategy: str
    driving: str
    reason: str
    executor: Execution
    why: str
    rows: int = 0
    size_bytes: int = 0

    @property
    def splits_alone(self) -> bool:
        """Whether new rows of the driving input give new rows of the output and change no old ones."""
        return self.strategy in {"blockwise", "broadcast", "files"}


def route(
    definition: Stored, scans: Mapping[str, Scan], *, execution: Execution = "auto", inline_bytes: int = 1 << 30
) -> Route:
    """Choose the strategy for a table and where it runs; `scans` are its inputs as they are read."""
    chosen = strategy(definition)
    if _is_dataset(definition):
        size, rows = (sum(getattr(scan, name) for scan in scans.values()) for name in ("size_bytes", "rows"))
        return Route(chosen.strategy, chosen.driving, chosen.reason, "ray", "datasets are Ray's", rows, size)
    driving = scans.get(chosen.driving)
    size = 0 if driving is None else driving.size_bytes
    rows = 0 if driving is None else driving.rows
    executor, why = where(chosen.strategy, size, execution, inline_bytes)
    return Route(chosen.strategy, chosen.driving, chosen.reason, executor, why, rows, size)


def source_route(
    definition: Source, pieces: Sequence[Piece], *, execution: Execution = "auto", inline_bytes: int = 1 << 30
) -> Route:
    """Choose where a source's pieces are read."""
    size = sum(piece.size_bytes for piece in pieces)
    executor, why = where("files", size, execution, inline_bytes)
    return Route("files", "", f"{definition.name!r} is read file by file", executor, why, 0, size)


def strategy(definition: Stored) -> Plan:
    """Choose the strategy from the definition alone."""
    if isinstance(definition, Source):
        return Plan("blockwise", "", "file by file")
    if not isinstance(definition, Table):
        raise TypeError(type(definition).__name__)
    transform = definition.transform
    if isinstance(transform, FunctionTransform):
        driving = transform.inputs[0]
        if transform.language == "dataset":
            return Plan("gather", driving, "a function of whole datasets")
        others = [repr(name) for name in transform.inputs[1:]]
        if others:
            return Plan("broadcast", driving, f"a function of blocks, with {', '.join(others)} whole")
        return Plan("blockwise", driving, "a function of blocks")
    if isinstance(transform, FactTransform):
        return _of_fact(transform)
    tree = tree_of(transform)
    return plan(tree)


def _is_dataset(definition: Stored) -> bool:
    transform = definition.transform if isinstance(definition, Table) else None
    return isinstance(transform, FunctionTransform) and transform.language == "dataset"


def tree_of(transform: object) -> exp.Query:
    """Return the statement of a SQL transform."""
    if not isinstance(transform, SqlTransform):
        raise TypeError(type(transform).__name__)
    return transform.tree


def where(chosen: str, size_bytes: int, execution: Execution, inline_bytes: int) -> tuple[Execution, str]:
    """Choose between this process and Ray by what is asked for, the strategy and the size of the input."""
    size = f"{size_bytes / 1e6:,.1f} MB"
    if chosen == "gather":
        return "inline", "gathered rows meet in one process"
    if execution != "auto":
        return execution, "asked for"
    if size_bytes < inline_bytes:
        return "inline", f"{size} is below {inline_bytes / 1e6:,.0f} MB"
    return "ray", f"{size} is {inline_bytes / 1e6:,.0f} MB or more"


def _of_fact(transform: FactTransform) -> Plan:
    """A fact is planned like its whole statement: its SELECT, with the dimensions it looks up joined to it."""
    whole = plan(transform.tree)
    if whole.strategy == "broadcast" and transform.lookups:
        dimensions = ", ".join(dict.fromkeys(repr(look.dimension) for _, look in transform.lookups))
        return replace(whole, reason=f"{dimensions} looked up for each split of {whole.driving!r}")
    return whole
