"""Interleaved runs: their order, failed and incorrect contestants, medians and ratios."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import main
from benchmarks.interleaved_runs import (
    Case,
    Contestant,
    Ran,
    UnableError,
    failures,
    in_turn,
    is_equal,
    require_known,
    run,
    show,
)
from benchmarks.stream import QUESTIONS

RIGHT = [("a", 1, 0.5)]


def contestant(name, *seconds, answer=RIGHT, is_ours=False, log=None):
    """A contestant whose runs take these seconds."""
    remaining = list(seconds)

    def once(folder):
        assert not list(folder.iterdir())
        (folder / "made").write_text("x")
        if log is not None:
            log.append(name)
        if not remaining:
            raise UnableError("no strength")
        taken = remaining.pop(0)
        return Ran(taken, taken + 1, int(taken * 10), answer, {"part": taken})

    return Contestant(name, once, is_ours)


def test_runs_are_interleaved_and_medians_compared(tmp_path):
    log = []
    ours, peer = contestant("ours", 1, 9, 2, is_ours=True, log=log), contestant("peer", 4, 3, 5, log=log)
    result = in_turn(Case("c", RIGHT, [ours, peer], {"rows": 7}), 3, tmp_path)
    assert log == ["ours", "peer"] * 3
    assert result["medians"] == {"ours": 2, "peer": 4}
    assert result["ratios"] == {"peer": 0.5}
    assert result["ahead"] == {"ours": {"peer": (1, 1)}}
    assert result["rows"] == 7
    assert result["ours"]["ours"] == {
        "seconds": 2,
        "wall_seconds": 3,
        "peak_bytes": 20,
        "parts": {"part": 2},
        "all_seconds": [1, 9, 2],
    }
    assert not list(tmp_path.iterdir())


def test_failed_or_incorrect_contestant_is_excluded_with_the_reason(tmp_path):
    weak, wrong = contestant("weak", 1), contestant("wrong", 1, 1, answer=[("a", 2, 0.5)])
    short = contestant("short", 1, answer=[])
    result = in_turn(Case("c", RIGHT, [contestant("ours", 2, 2, is_ours=True), weak, wrong, short]), 2, tmp_path)
    assert {name: peer["skipped"] for name, peer in result["peers"].items()} == {
        "weak": "no strength",
        "wrong": "wrong answer: ('a', 2, 0.5), not ('a', 1, 0.5)",
        "short": "wrong answer: 0 rows, not 1",
    }
    assert result["medians"] == {"ours": 2}
    assert result["ratios"] == {}


def test_ratios_sum_the_cases_that_both_completed(tmp_path, capsys):
    def case(name, ours, *peers):
        return Case(name, RIGHT, [contestant("ours", ours, is_ours=True), *peers])

    cases = [case("small", 1, contestant("fast", 2), contestant("slow", 4)), case("large", 5, contestant("fast", 10))]
    result = run(cases, 1, tmp_path)
    assert result["medians"] == {"ours": 6, "fast": 12, "slow": 4}
    assert result["ratios"] == {"fast": 0.5, "slow": 0.25}
    assert result["cases"]["large"]["ratios"] == {"fast": 0.5}
    show(result)
    assert "large" in capsys.readouterr().out


def test_failure_of_headwater_is_reported_unless_it_is_unavailable(tmp_path):
    result = run([Case("c", RIGHT, [contestant("ours", is_ours=True), contestant("peer", 1)])], 1, tmp_path)
    assert failures(result) == ["ours : no strength"]
    result["ours"]["ours"]["skipped"] = "not available: four cores"
    assert failures(result) == []


def test_only_selected_contestants_run(tmp_path):
    log = []
    contestants = [contestant("ours", 1, is_ours=True, log=log), contestant("peer", 1, log=log)]
    assert run([Case("c", RIGHT, contestants)], 1, tmp_path, ["peer"])["medians"] == {"peer": 1}
    assert log == ["peer"]
    with pytest.raises(SystemExit, match="no such case"):
        run([], 1, tmp_path)


def test_unknown_contestant_is_an_error_that_lists_the_known_ones():
    require_known(["peer"], iter(["ours", "peer", "ours"]))
    with pytest.raises(SystemExit, match="no contestant of this benchmark is named 'auto,duckdb'; known: ours, peer"):
        require_known(["ours", "auto,duckdb"], iter(["ours", "peer", "ours"]))


def test_contestant_of_another_benchmark_is_an_error(tmp_path):
    first = Case("a", RIGHT, [contestant("ours", 1, is_ours=True), contestant("peer", 1)])
    other = Case("b", RIGHT, [contestant("ours", 1, is_ours=True), contestant("call", 1)])

    assert run([first, other], 1, tmp_path, ["call"])["medians"] == {"call": 1}
    with pytest.raises(SystemExit, match="is named 'spark'; known: ours, peer, call"):
        run([first, other], 1, tmp_path, ["spark"])
    with pytest.raises(SystemExit, match="is named 'spark'"):
        run([first], 1, tmp_path, ["ours", "spark"])


@pytest.mark.parametrize("words", [["etl"], ["demo"], ["raydata"], *(["stream", question] for question in QUESTIONS)])
def test_every_benchmark_rejects_unknown_contestants(words, monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmarks", *words, "--who", "duckbd"])
    with pytest.raises(SystemExit, match="no contestant of this benchmark is named 'duckbd'"):
        main()


@pytest.mark.parametrize(
    ("actual", "other", "same"),
    [(1, 1, True), (1, 2, False), (0.1 + 0.2, 0.3, True), (0.3, 0.3001, False), (1.0, "1", False), (None, None, True)],
)
def test_fractional_numbers_are_compared_with_a_tolerance(actual, other, same):
    assert is_equal([(actual,)], [(other,)], 1e-9) is same
