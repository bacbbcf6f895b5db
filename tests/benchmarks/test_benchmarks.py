"""Each benchmark at a tiny scale: Headwater's results are correct, and the output has the documented shape."""

from __future__ import annotations

import pytest

from benchmarks.etl import PEERS
from benchmarks.tpch import queries

SHAPE = {"benchmark", "scale", "runs", "machine", "versions", "medians", "ours", "peers", "ratios"}


def assert_measured(figures, who="auto"):
    """Check that Headwater was timed, which requires a correct result, and that each peer was skipped with a reason."""
    assert figures.keys() >= SHAPE
    assert figures["medians"][who] == figures["ours"][who]["seconds"] > 0
    assert figures["ours"][who]["peak_bytes"] > 50e6
    assert figures["machine"]["memory_bytes"] > 1e9
    assert figures["versions"]["ours"]["duckdb"]
    assert all(peer["skipped"].startswith("not available: no ") for peer in figures["peers"].values())
    assert figures["ratios"] == {}


def test_etl(bench):
    figures = bench("etl", "--who", "auto", *(word for name in PEERS for word in ("--who", name)))
    assert_measured(figures)
    assert tuple(figures["peers"]) == PEERS
    assert figures["ours"]["auto"]["parts"].keys() >= {"shipped", "by_month"}


@pytest.mark.proof
@pytest.mark.ray
def test_etl_on_a_cluster_counts_its_processes(bench):
    figures = bench("etl", "--who", "ray")
    assert_measured(figures, "ray")
    assert (
        figures["ours"]["ray"]["peak_bytes"] > 400e6
    )  # includes the processes of the cluster; the command alone uses less


def test_medallion(bench):
    assert_measured(bench("medallion", "--who", "auto", "--who", "spark"))


@pytest.mark.proof
def test_tpch(bench):
    figures = bench("tpch", "--who", "auto", "--who", "duckdb")
    assert_measured(figures)
    assert figures["load"]["seconds"] > 0
    parts = figures["ours"]["auto"]["parts"]
    assert list(parts) == list(queries(1)) == [f"q{number:02}" for number in range(1, 23)]
    ours = figures["ours"]["auto"]
    assert max(parts.values()) <= figures["medians"]["auto"] == ours["seconds"] < ours["wall_seconds"]


@pytest.mark.proof
def test_groupby(bench):
    figures = bench("groupby", "--who", "auto", "--who", "call", "--only", "1M in process", "--only", "10M")
    case = figures["cases"]["10M"]
    assert (case["rows"], case["groups"]) == (10_000, 10)
    assert case["medians"]["auto"] > 0
    assert figures["cases"]["1M in process"]["medians"]["call"] < 1
    assert figures["medians"].keys() == {"auto", "call"}


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_raydata(bench):
    figures = bench("raydata")
    assert figures["cases"].keys() == {"etl", "groupby", "join"}
    assert all(case["medians"].keys() == {"ray", "raydata"} for case in figures["cases"].values())  # both are correct
    assert figures["ratios"].keys() == {"raydata"}


@pytest.mark.proof
def test_warehouse(bench):
    figures = bench("warehouse", "--only", "refresh", "--who", "auto", "--who", "full")
    assert (figures["rows"], figures["new"]) == (200_000, 2_000)
    assert figures["medians"].keys() == {"auto", "full"}  # both are correct


@pytest.mark.proof
def test_warehouse_queries(bench):
    figures = bench("warehouse", "--only", "marts", "--only", "star", "--who", "call", "--who", "open")
    for case in figures["cases"].values():
        assert case["medians"].keys() == {"call", "open"}  # both are correct
        parts = case["ours"]["call"]["parts"]
        assert parts["p50"] <= parts["p95"] == case["medians"]["call"]
        assert "two dimensions p95" in parts


@pytest.mark.proof
def test_join(bench):
    figures = bench("join", "--who", "auto", "--who", "duckdb", "--only", "1M")
    assert_measured(figures)
    assert (figures["rows"], figures["memory_bytes"]) == (1000, 1 << 30)


@pytest.mark.proof
@pytest.mark.ray
def test_serving(bench):
    figures = bench("serving")
    assert {*figures["ours"]} == {"auto", "ray"}
    assert figures["peers"]["mlflow"]["parts"].keys() == figures["ours"]["auto"]["parts"].keys()


@pytest.mark.proof
@pytest.mark.ray
def test_api(bench):
    figures = bench("api", "--only", "cached", "--only", "point", "--who", "auto", "--who", "bare", "--who", "roapi")
    assert figures["cases"].keys() == {"cached", "point"}
    assert figures["cases"]["cached"]["medians"].keys() >= {"auto", "bare"}  # both are correct


@pytest.mark.proof
def test_features(bench):
    figures = bench("features", "--who", "auto", "--who", "duckdb", "--who", "feast", "--only", "10M")
    assert (figures["rows"], figures["rows of each view"]) == (10_000, 2_000)
    assert_measured(figures)


@pytest.mark.proof
def test_merge(bench):
    figures = bench("merge", "--who", "auto", "--only", "100k into 10M")
    assert (figures["changes"], figures["rows"]) == (100, 10_000)
    assert_measured(figures)


@pytest.mark.proof
def test_lake(bench):
    jobs = ("cdc", "append", "point", "travel")
    figures = bench("lake", "--who", "auto", "--who", "call", *(word for job in jobs for word in ("--only", job)))
    assert tuple(figures["cases"]) == jobs
    assert all(case["medians"] for case in figures["cases"].values())  # all are correct


@pytest.mark.proof
@pytest.mark.ray
def test_scale(bench):
    figures = bench("scale", "--only", "1")
    assert_measured(figures, "ray")
    model = figures["cost_model"]
    assert model["mb_s_per_core"] == pytest.approx(figures["bytes_in"] / 1e6 / figures["medians"]["ray"])
    one, five = (model["needs"][f"{n} TB a day"]["cores"] for n in (1, 5))
    assert (one - 1) * 4 * 3600 * model["mb_s_per_core"] < 1e6 <= one * 4 * 3600 * model["mb_s_per_core"]
    assert 5 * (one - 1) < five <= 5 * one
