"""What tests of several folders share: one real Kafka broker, one object store for the whole session, started by the first that asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.kafka import Cluster, UnavailableError
from tests.rigs.weed import s3 as s3  # noqa: PLC0414 - the fixture


@pytest.fixture(scope="session")
def kafka(tmp_path_factory) -> Iterator[Cluster]:
    """A broker on loopback that nobody kills: tests of kills start their own. Topics are not removed: name them apart."""
    try:
        cluster = Cluster(tmp_path_factory.mktemp("kafka"))
    except UnavailableError as error:
        pytest.skip(str(error))
    with cluster:
        yield cluster
