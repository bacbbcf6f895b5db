from __future__ import annotations

import pytest


@pytest.fixture
def kafka_cluster(kafka):
    """The brokers, for tests in which the name `kafka` is the source."""
    return kafka
