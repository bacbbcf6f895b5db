"""Runs contestants interleaved on the same job, compares their answers, and reports medians and ratios."""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

Answer = Sequence[Sequence[object]]
"""Rows in a fixed order: the result of a contestant, or sums over it."""
Figures = dict[str, Any]
RELATIVE = 1e-9
"""Relative tolerance of numbers, because sums of floats depend on the order of addition."""


class UnableError(Exception):
    """A contestant could not do its job; the message is recorded as the reason."""


@dataclass(frozen=True)
class Ran:
    """One finished job: `seconds` are compared, `wall_seconds` are for the entire process; `parts` are in seconds."""

    seconds: float
    wall_seconds: float
    peak_bytes: int
    answer: Answer
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Contestant:
    """A contestant: `run` does the job in an empty folder and can raise `UnableError`; `relative`: see `RELATIVE`."""

    name: str
    run: Callable[[Path], Ran]
    is_ours: bool = False
    relative: float = RELATIVE


@dataclass(frozen=True)
class Case:
    """A job, its correct answer, and its contestants. Peers are compared with the first of ours."""

    name: str
    expected: Answer
    contestants: Sequence[Contestant]
    facts: Mapping[str, object] = field(default_factory=dict)


def in_turn(case: Case, runs: int, folder: Path) -> Figures:
    """Run all contestants once, then all again, and so on; return the case's figures.

    A contestant that fails, or returns another answer than `case.expected`, is recorded with the reason and skipped.
    """
    ran: dict[str, list[Ran]] = {c.name: [] for c in case.contestants}
    out: dict[str, str] = {}
    for _ in range(runs):
        for contestant in case.contestants:
            if contestant.name not in out:
                try:
                    ran[contestant.name].append(_once(contestant, case.expected, folder))
                except UnableError as error:
                    out[contestant.name] = str(error)
    results = {c.name: _figures(ran[c.name], out.get(c.name)) for c in case.contestants}
    ours = {c.name: results[c.name] for c in case.contestants if c.is_ours}
    peers = {c.name: results[c.name] for c in case.contestants if not c.is_ours}
    return {**case.facts, **compared(ours, peers)}


def compared(ours: Mapping[str, Figures], peers: Mapping[str, Figures]) -> Figures:
    """Return medians by name, and our medians divided by each peer's; `ratios` are those of the first of ours.

    `ahead` is, for each of ours and each peer, the number of parts of the job in which ours is faster, and of all that
    both have.
    """
    medians = {name: result["seconds"] for name, result in {**ours, **peers}.items() if "seconds" in result}
    ratios = {
        name: {peer: medians[name] / medians[peer] for peer in peers if peer in medians}
        for name in ours
        if name in medians
    }
    first = next(iter(ours), "")
    ahead = {name: {peer: _ahead(ours[name], peers[peer]) for peer in ratios[name]} for name in ratios}
    return {
        "medians": medians,
        "ours": ours,
        "peers": peers,
        "ratios": ratios.get(first, {}),
        "ratios_of": ratios,
        "ahead": ahead,
    }


def together(cases: Mapping[str, Figures]) -> Figures:
    """Return the combined figures of several cases: each contestant's sums over the cases it completed.

    A ratio is taken over the cases that both completed, so it differs from the ratio of the sums if one skipped some.
    """
    ours, peers = ({name: _sum(cases, side, name) for name in _names(cases, side)} for side in ("ours", "peers"))
    completed = {
        name: {c for c, case in cases.items() if name in case["medians"]}
        for side in ("ours", "peers")
        for name in _names(cases, side)
    }

    def ratio(name: str, peer: str) -> float:
        shared = completed[name] & completed[peer]
        sums = [sum(cases[c]["medians"][who] for c in shared) for who in (name, peer)]
        return float(sums[0] / sums[1])

    figures = compared(ours, peers)
    ratios = {name: {p: ratio(name, p) for p in peers if completed[name] & completed[p]} for name in ours}
    return {**figures, "ratios": ratios.get(next(iter(ours), ""), {}), "ratios_of": ratios, "cases": dict(cases)}


def run(cases: Iterable[Case], runs: int, folder: Path, who: Sequence[str] = ()) -> Figures:
    """Run a benchmark's cases with all or given contestants; return the figures, also combined for several cases.

    Exits with a message if there is no case, and if one of the given contestants is in none of the cases.
    """
    results, known = {}, list[str]()
    for case in cases:
        known += [c.name for c in case.contestants]
        chosen = [c for c in case.contestants if c.name in who or not who]
        if chosen:
            results[case.name] = in_turn(replace(case, contestants=chosen), runs, folder)
    if not known:
        raise SystemExit("no such case")
    require_known(who, known)
    return next(iter(results.values())) if len(results) == 1 else together(results)


def require_known(who: Sequence[str], known: Iterable[str]) -> None:
    """Exit with a message unless all given names are contestants."""
    names = list(dict.fromkeys(known))
    unknown = [name for name in who if name not in names]
    if unknown:
        known_text = f"known: {', '.join(names)} (repeat --who for several)" if names else "it has no --who"
        raise SystemExit(f"no contestant of this benchmark is named {unknown[0]!r}; {known_text}")


def show(figures: Figures) -> None:
    """Print each case as a table."""
    for name, case in figures.get("cases", {"": figures}).items():
        print(f"{name:22} {'seconds':>9} {'wall':>9} {'peak GB':>8} {'ours/it':>8}")
        for side in ("ours", "peers"):
            for who, result in case[side].items():
                print(_line(who, result, case["ratios"].get(who)))
        for who, counts in case.get("ahead", {}).items():
            for peer, (ahead, every) in counts.items():
                if every:
                    print(f"{who} is ahead of {peer} in {ahead} of {every} parts")
        print()


def failures(figures: Figures) -> list[str]:
    """Return the cases that Headwater could not do, with reasons."""
    cases = figures.get("cases", {"": figures})
    return [
        f"{who} {name}: {result['skipped']}"
        for name, case in cases.items()
        for who, result in case["ours"].items()
        if "skipped" in result and not result["skipped"].startswith("not available:")
    ]


def is_equal(actual: object, other: object, relative: float) -> bool:
    """Return whether two answers are equal, with a relative tolerance for numbers that are not integers."""
    if isinstance(actual, float | Decimal) or isinstance(other, float | Decimal):
        if not isinstance(actual, int | float | Decimal) or not isinstance(other, int | float | Decimal):
            return False
        return math.isclose(actual, other, rel_tol=relative, abs_tol=relative)
    if isinstance(actual, list | tuple) and isinstance(other, list | tuple):
        return len(actual) == len(other) and all(is_equal(a, b, relative) for a, b in zip(actual, other, strict=True))
    return actual == other


def _ahead(ours: Figures, peer: Figures) -> tuple[int, int]:
    parts, others = ours.get("parts", {}), peer.get("parts", {})
    shared = parts.keys() & others.keys()
    return sum(parts[name] < others[name] for name in shared), len(shared)


def _once(contestant: Contestant, expected: Answer, folder: Path) -> Ran:
    place = Path(tempfile.mkdtemp(prefix=f"{contestant.name}-", dir=folder))
    try:
        ran = contestant.run(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if len(ran.answer) != len(expected):
        raise UnableError(f"wrong answer: {len(ran.answer)} rows, not {len(expected)}")
    for got, right in zip(ran.answer, expected, strict=True):
        if not is_equal(got, right, contestant.relative):
            raise UnableError(f"wrong answer: {got}, not {right}")
    return ran


def _figures(ran: Sequence[Ran], reason: str | None) -> Figures:
    if reason is not None or not ran:
        return {"skipped": reason or "not run"}
    return {
        "seconds": statistics.median(r.seconds for r in ran),
        "wall_seconds": statistics.median(r.wall_seconds for r in ran),
        "peak_bytes": int(statistics.median(r.peak_bytes for r in ran)),
        "parts": {part: statistics.median(r.parts[part] for r in ran) for part in ran[0].parts},
        "all_seconds": [r.seconds for r in ran],
    }


def _names(cases: Mapping[str, Figures], side: str) -> list[str]:
    return list(dict.fromkeys(name for case in cases.values() for name in case[side]))


def _sum(cases: Mapping[str, Figures], side: str, name: str) -> Figures:
    completed = [case[side][name] for case in cases.values() if "seconds" in case[side].get(name, {})]
    if not completed:
        return {"skipped": next(case[side][name]["skipped"] for case in cases.values() if name in case[side])}
    sums = {key: sum(result[key] for result in completed) for key in ("seconds", "wall_seconds")}
    return {**sums, "peak_bytes": max(result["peak_bytes"] for result in completed), "cases": len(completed)}


def _line(who: str, result: Figures, ratio: float | None) -> str:
    if "skipped" in result:
        return f"{who:22} skipped: {result['skipped'][:120]}"
    beside = "" if ratio is None else f"{ratio:8.2f}"
    return (
        f"{who:22} {result['seconds']:9.2f} {result['wall_seconds']:9.2f} {result['peak_bytes'] / 1e9:8.2f} {beside:>8}"
    )
