"""The state of a cluster: what its nodes cost, and how it is printed."""

from __future__ import annotations

import pytest

from cluster.cli.cluster import print_state
from cluster.status import ClusterState, NodeState


def state(*nodes):
    return ClusterState("127.0.0.1:1", nodes, (), 0, {})


HEAD = NodeState("head", "idle", cpus=0, cost_per_hour=0.1)
WORKER = NodeState("worker", "busy", cpus=2, cost_per_hour=0.5)
STARTING = NodeState("worker", "starting", cost_per_hour=0.5)


@pytest.mark.parametrize(
    ("nodes", "cost"),
    [
        ((HEAD, WORKER, STARTING), 1.1),
        ((NodeState("head", "starting", cost_per_hour=0.1), WORKER), 0.6),
        ((NodeState("head", "idle"), WORKER), 0.5),
        ((HEAD, NodeState("other", "idle", cpus=2)), None),
        ((HEAD, NodeState("other", "starting")), None),
    ],
    ids=["all", "head starts", "a head without cores is free", "unknown type", "unknown type starts"],
)
def test_the_cost_is_the_sum_of_the_rows(nodes, cost):
    assert state(*nodes).cost_per_hour == (None if cost is None else pytest.approx(cost))


def test_the_ids_of_nodes_without_a_type_are_short(capsys):
    print_state(state(NodeState(f"node_{'0123abcd' * 7}", "idle", cpus=2), WORKER))
    printed = capsys.readouterr().out
    assert "node_0123abcd…  idle" in printed
    assert "0123abcd0123" not in printed
