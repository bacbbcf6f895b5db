"""Rows that a plan fetched are read by tasks on Ray, also if the API has others by then; the guard is that of the cluster."""

from __future__ import annotations

import pytest
import ray

from pipeline.batch.ray_cluster import join
from pipeline.connectors.guard.actor import ClusterGuard
from pipeline.connectors.guard.calls import guard_here
from pipeline.connectors.rest import PageNumber
from pipeline.connectors.rest.source import rest
from pipeline.core.graph import Graph
from pipeline.core.settings import Settings
from pipeline.core.source_declaration import source
from pipeline.project import Project, Workspace
from pipeline.runner import Runner
from tests.rigs.http_faults import Reply, http_server

pytestmark = [
    pytest.mark.proof,
    pytest.mark.ray,
    pytest.mark.timeout(180),
    # Ray's settings class sets options that Ray itself deprecates
    pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    join()
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_a_run_on_ray(tmp_path):
    with http_server() as server:
        server.routes["/items"] = lambda r: Reply([{"id": n} for n in range(100)] if r.params["page"] == "1" else [])
        home = tmp_path / "project"
        home.mkdir()
        reader = rest(f"{server.url}/items", pages=PageNumber(), cursor="id", rate="100/s").within(home)
        lake, warehouse, catalog = str(home / "lake"), str(home / "w.duckdb"), f"sqlite:///{home / 'c.db'}"
        settings = Settings(
            "rest", home, home / "none.py", lake=lake, warehouse=warehouse, catalog=catalog, execution="ray"
        )
        made = Project(settings, Graph.of([source(reader, schema={"id": "bigint"}).named("items")]))
        run = Runner(made).run()
        assert [step.executor for step in run.steps] == ["ray"]
        assert Workspace(made).require("items").rows == 100
        assert isinstance(guard_here(), ClusterGuard)
        assert [step.decision for step in Runner(made).run().steps] == ["skip"]
