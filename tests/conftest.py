"""What tests of several folders share: how much of them runs, on how many workers, and the servers of a session.

Tests run on several workers. Those that use a server run on one worker, which starts it once: `kafka` and `ray` are groups.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.kafka import Cluster, UnavailableError
from pipeline.core.processes import cores
from tests.rigs import proofs
from tests.rigs.weed import s3 as s3  # noqa: PLC0414 - the fixture

GROUPS = {"kafka": "kafka", "s3": "s3"}
"""Which fixtures bring their tests to one worker."""


def pytest_configure(config: pytest.Config) -> None:
    for line in proofs.MARKERS:
        config.addinivalue_line("markers", line)


def pytest_report_header() -> str:
    return f"seed {proofs.SEED}: {'all proofs' if proofs.PROOFS else 'a share of the proofs'}"


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for disks, servers and processes."""
    return cores() + 1


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    run, left = proofs.chosen(items)
    config.hook.pytest_deselected(items=left)
    items[:] = sorted(run, key=lambda item: _group(item) == "")  # the groups are long: they begin first
    for item in items:
        if _group(item):
            item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    if item.get_closest_marker("ray") is not None:
        return "ray"
    fixtures = getattr(item, "fixturenames", ())
    return next((group for fixture, group in GROUPS.items() if fixture in fixtures), "")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory) -> Iterator[Cluster]:
    """A broker on loopback that nobody kills: tests of kills start their own. Topics are not removed: name them apart."""
    try:
        cluster = Cluster(tmp_path_factory.mktemp("kafka"))
    except UnavailableError as error:
        pytest.skip(str(error))
    with cluster:
        yield cluster
