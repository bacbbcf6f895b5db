"""Policies of lake tables: the narrowest one that names a table decides each option."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipeline import lake_policy
from pipeline.core.errors import DefinitionError
from pipeline.core.lake_policy import LakePolicy
from pipeline.project.project import load

HEAD = """
from pipeline import generate, lake_policy, source, sql
raw = source(generate({"id": "i"}, count=3), schema={"id": "bigint"})
orders = sql("select id from raw", key="id")
"""


@pytest.fixture
def project(tmp_path):
    def loaded(text: str):
        (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
        (tmp_path / "p.py").write_text(HEAD + text)
        return load(tmp_path)

    return loaded


def policies(project) -> dict[str, LakePolicy]:
    return {name: project.policy(project.graph[name]) for name in ("raw", "orders")}


def test_without_policies_all_tables_have_the_defaults(project):
    assert policies(project("")) == {"raw": LakePolicy(), "orders": LakePolicy()}


@pytest.mark.parametrize("turned", [False, True], ids=["wide first", "narrow first"])
def test_the_narrowest_policy_decides_each_option(project, turned):
    lines = [
        "every = lake_policy(history='14 days', target_mb=64)",
        "silver = lake_policy('silver', history='3 days', maintenance='manual')",
        "one = lake_policy('orders', history='1 hour', cluster_by='id')",
    ]

    found = policies(project("\n".join(reversed(lines) if turned else lines)))

    assert found == {
        "raw": LakePolicy(history=timedelta(days=14), target_mb=64),
        "orders": LakePolicy(timedelta(hours=1), cluster_by=("id",), target_mb=64, maintenance="manual"),
    }


def test_a_policy_can_have_two_names_in_the_definitions(project):
    found = policies(project("one = lake_policy('orders', min_versions=5)\nsame = one"))

    assert found["orders"] == LakePolicy(min_versions=5)


def test_a_changed_policy_recomputes_nothing(project):
    before = project("one = lake_policy('orders', history='1 hour')").graph["orders"].fingerprint

    assert project("one = lake_policy('orders', history='2 hours')").graph["orders"].fingerprint == before


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("p = lake_policy('order')", r"lake_policy names a table 'order', which does not exist; did you mean 'orders'"),
        ("p = lake_policy(min_versions=1)\nq = lake_policy(min_versions=2)", r"two policies set min_versions= of all"),
        ("p = lake_policy('raw', 'orders', target_mb=1)\nq = lake_policy('raw', target_mb=1)", r"target_mb= of 'raw', t"),
    ],
)  # fmt: skip
def test_contradictory_policies_are_refused(project, text, error):
    with pytest.raises(DefinitionError, match=error):
        project(text)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"histroy": "1 day"}, r"no option 'histroy'; did you mean 'history'"),
        ({"history": "soon"}, r"history= is not a duration: got 'soon'"),
        ({"min_versions": 0}, r"min_versions= must be a positive integer: got 0"),
        ({"target_mb": "big"}, r"target_mb= must be a positive integer: got 'big'"),
        ({"maintenance": "often"}, r"unknown value of maintenance=: got 'often'; "),
    ],
)
def test_invalid_options_are_refused(options, error):
    with pytest.raises(DefinitionError, match=error):
        lake_policy(**options)
