"""Interleaving: lists are fair and reproducible, and preferences have the promised error rate and need few units."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.rankings import BETTER, looked, units_by_clicks, units_interleaved
from cluster.cli.experiment import app
from ml import interleaving
from ml.experiments import always_valid_share, concentration_for, interleave
from pipeline.core.errors import DefinitionError, RequestError
from pipeline.project import load
from pipeline.runner import Runner
from tests.rigs.proofs import examples

RANKING = st.lists(st.integers(0, 12), max_size=9)


@given(old=RANKING, new=RANKING, request=st.integers(0, 1000), length=st.none() | st.integers(0, 8))
@settings(max_examples=examples(200, 5000))
def test_lists_have_the_items_of_both_and_credit_both_alike(old, new, request, length):
    rankings = {"old": old, "new": new}
    shown = interleave(rankings, request, length=length)
    assert shown == interleave(rankings, request, length=length)
    whole = interleave(rankings, request)
    assert shown == whole[:length]
    assert sorted(item for item, _ in whole) == sorted({*old, *new})
    for end in range(len(shown) + 1):
        teams = [team for _, team in shown[:end]]
        assert abs(teams.count("old") - teams.count("new")) <= 1, "at each position"
    for name, items in rankings.items():  # an item is the best that its ranking had left
        for place, (item, team) in enumerate(shown):
            if team == name:
                before = {other for other, _ in shown[:place]}
                assert item == next(each for each in items if each not in before)


def test_each_ranking_begins_half_of_the_lists_and_half_of_the_turns():
    lists = [interleave({"old": range(10), "new": range(10, 20)}, request) for request in range(2000)]
    for turn in (0, 2, 8):
        begun = [shown[turn][1] for shown in lists].count("new")
        assert begun == pytest.approx(1000, abs=100)
    same = sum(a[0][1] == a[2][1] for a in lists)
    assert same == pytest.approx(1000, abs=100), "coins of two turns are independent"
    other = [interleave({"old": range(10), "new": range(10, 20)}, request, experiment="e") for request in range(2000)]
    assert sum(a[0] == b[0] for a, b in zip(lists, other, strict=True)) == pytest.approx(1000, abs=100)


def test_the_list_of_a_request_is_the_same_for_ever():
    """Clicks are credited by the list that was shown, maybe by another version of the process."""
    shown = interleave({"old": "abcd", "new": "caef"}, "request 7", experiment="search_preference")
    assert shown == [("a", "old"), ("c", "new"), ("b", "old"), ("e", "new"), ("d", "old"), ("f", "new")]


def test_what_only_one_ranking_has_left_is_shown_without_credit():
    assert interleave({"old": "ab", "new": ""}, 1) == [("a", None), ("b", None)]
    shown = interleave({"old": "abcd", "new": "a"}, 1)
    assert [item for item, _ in shown] == list("abcd")
    assert [team for _, team in shown].count(None) >= 2


@pytest.mark.parametrize(
    ("rankings", "length", "problem"),
    [
        ({"a": [1]}, None, "two rankings are interleaved: got 1: a"),
        ({"a": [1], "b": [2], "c": [3]}, None, "two rankings are interleaved: got 3: a, b, c"),
        ({"a": [1], "b": [2]}, -1, "length= must not be negative: got -1"),
    ],
)
def test_invalid_lists(rankings, length, problem):
    with pytest.raises(RequestError, match=problem):
        interleave(rankings, 1, length=length)


def test_equal_rankings_that_are_looked_at_often_are_rarely_found_different():
    rng, requests = np.random.default_rng(11), examples(250, 1000)
    runs = [looked(rng, run, requests) for run in range(examples(40, 1000))]
    assert np.mean([always for always, _ in runs]) <= 0.05
    assert np.mean([usual for _, usual in runs]) > 0.15, "the usual test, looked at as often"


def test_users_who_come_back_and_change_their_preference_hardly_change_the_error_rate():
    rng, users, wrong = np.random.default_rng(1), 1000, 0
    runs, looks = examples(40, 400), examples(40, 100)
    for _ in range(runs):
        credit = np.zeros(users)
        for _ in range(looks):
            credit += (rng.random(users) < 0.3) * rng.choice([-1, 0, 1], users)
            wins, losses = int((credit > 0).sum()), int((credit < 0).sum())
            if always_valid_share(wins, losses, concentration_for(1000)).p < 0.05:
                wrong += 1
                break
    assert wrong / runs <= 0.08


def test_a_better_ranking_is_found_with_fewer_units_than_by_an_experiment():
    rng, runs = np.random.default_rng(5), range(examples(8, 200))
    by_clicks = np.median([units_by_clicks(rng, BETTER, 20_000) for _ in runs])
    interleaved = np.median([units_interleaved(rng, BETTER, 5000, run) for run in runs])
    assert interleaved * 3 < by_clicks


@given(wins=st.integers(0, 400), losses=st.integers(0, 400), units=st.integers(1, 10_000))
@settings(max_examples=examples(100, 2000))
def test_the_interval_of_a_share_and_its_p_value_agree(wins, losses, units):
    interval = always_valid_share(wins, losses, concentration_for(units))
    assert 0 <= interval.low <= (wins / (wins + losses) if wins + losses else 0.5) <= interval.high <= 1
    assert (interval.p < 0.05) == (not interval.low <= 0.5 <= interval.high)
    turned = always_valid_share(losses, wins, concentration_for(units))
    assert (turned.low, turned.high, turned.p) == pytest.approx((1 - interval.high, 1 - interval.low, interval.p))


def test_the_interval_of_a_share_is_right_at_all_times():
    rng, wrong = np.random.default_rng(2), 0
    runs = examples(100, 1000)
    for _ in range(runs):
        wins = (rng.random(1000) < 0.8).cumsum()
        intervals = [always_valid_share(int(wins[k]), k + 1 - int(wins[k]), 100) for k in range(0, 1000, 20)]
        wrong += any(not each.low <= 0.8 <= each.high for each in intervals)
    assert wrong / runs <= 0.05


def found(rows, **options):
    defined = interleaving(rankings=("old", "new"), clicks="clicks", unit="user", **options).named("p")
    schema = pa.schema([("user", pa.int64()), ("ranking", pa.string()), ("worth", pa.float64())])
    table = pa.Table.from_pylist([dict(zip(schema.names, (*row, 1.0)[:3], strict=True)) for row in rows], schema=schema)
    counts = defined.companions[0].transform(clicks=table)
    (row,) = defined.transform(counts).to_pylist()
    return row


def test_a_unit_prefers_the_ranking_with_more_of_its_credit():
    rows = [(1, "new"), (1, "new"), (1, "old"), (2, "old"), (3, "new"), (3, "old"), (4, "new")]
    row = found(rows)
    assert [row[name] for name in ("ranking", "against", "units", "wins", "losses", "ties")] == [
        "new",
        "old",
        4,
        2,
        1,
        1,
    ]
    assert (row["share"], row["decision"], row["reason"]) == (pytest.approx(2 / 3), "undecided", "")
    worth = [(1, "new", 1.0), (1, "old", 5.0)]
    assert found(worth)["wins"] == 1 - found(worth, value="worth")["losses"] == 0
    assert found([])["share"] is None
    assert found([(user, "new") for user in range(40)])["decision"] == "better"
    assert found([(user, "old") for user in range(40)])["decision"] == "worse"


def test_clicks_that_cannot_be_credited_are_counted():
    many = [(user, "new") for user in range(40)]
    row = found([*many, (None, "old"), (7, None), (8, None)])
    assert (row["decision"], row["units"], row["reason"]) == ("better", 40, "3 clicks without unit or ranking")
    row = found([*many, (7, "nwe")])
    assert (row["decision"], row["reason"]) == ("broken", "unknown ranking 'nwe': 1 clicks")
    row = found([*many, (41, "new", float("nan")), (42, "old", float("inf"))], value="worth")
    assert (row["decision"], row["losses"]) == ("broken", 1)
    assert row["reason"] == "1 units with a value that is not a number"
    assert found([(1, "new", None), (2, "old", 1.0)], value="worth")["ties"] == 1


PROJECT = """
from cluster.cli.experiment import app
from ml import interleaving
from pipeline import files, source

clicks = source(files("clicks.csv"), schema={"user": "bigint", "ranking": "varchar"})
search = interleaving(rankings=("old", "new"), clicks="clicks", unit="user")
"""


def command(root, *words, code=0):
    answer = CliRunner().invoke(app, [*words, "--project", str(root)])
    assert answer.exit_code == code, (answer.output, answer.exception)
    return answer


def test_an_interleaving_of_a_project(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(PROJECT)
    file = tmp_path / "clicks.csv"
    file.write_text("user,ranking\n" + "".join(f"{user},{'old' if user % 5 == 0 else 'new'}\n" for user in range(200)))
    assert "experiment 'search' has no results yet" in str(command(tmp_path, "status", "search", code=1).exception)
    Runner(load(tmp_path)).run()
    assert [row["name"] for row in json.loads(command(tmp_path, "ls", "--json").output)] == ["search"]
    shown = command(tmp_path, "status", "search", "--check").output
    assert "200 units: 160 prefer new, 40 old, 0 none" in shown
    assert "better" in shown
    status = json.loads(command(tmp_path, "status", "search", "--json").output)
    assert (status["must_stop"], status["results"][0]["share"]) == (False, 0.8)
    with file.open("a") as clicks:
        clicks.write("1000,nwe\n")
    Runner(load(tmp_path)).run()
    assert "unknown ranking 'nwe': 1 clicks" in command(tmp_path, "status", "search", "--check", code=1).output

    (tmp_path / "shop.py").write_text(PROJECT.replace('unit="user"', 'unit="user", value="worth"'))
    with pytest.raises(DefinitionError, match="table 'clicks' has no column 'worth'"):
        Runner(load(tmp_path)).run()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"rankings": ("a",)}, r"an interleaving compares two rankings: got \('a',\)"),
        ({"rankings": ("a", "a")}, "an interleaving compares two rankings"),
        ({"rankings": (1, 2)}, "the name of a ranking must be a text that is not empty: got 1"),
        ({"rankings": ("", "b")}, "the name of a ranking must be a text that is not empty: got ''"),
        ({"rankings": None}, "an interleaving compares two rankings: got None"),
        ({"units": "many"}, "units= must be a positive whole number: got 'many'"),
        ({"clicks": None}, "clicks= must be a text that is not empty: got None"),
        ({"rankings": "ab"}, "an interleaving compares two rankings: got 'ab'"),
        ({"units": 0}, "units= must be a positive whole number: got 0"),
        ({"alpha": 1}, r"alpha= must be between 0 and 1: got 1.*test_ml_interleaving\.py"),
    ],
)
def test_invalid_interleavings(options, problem):
    with pytest.raises(DefinitionError, match=f"(?s){problem}"):
        interleaving(**{"rankings": ("old", "new"), "clicks": "c", "unit": "u", **options})
