"""The servers of these tests."""

from __future__ import annotations

from tests.rigs.ferret import ferret as ferret  # noqa: PLC0414 - the fixture
from tests.rigs.ferret import mongo as mongo  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import maria as maria  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import mariadb as mariadb  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import pg as pg  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import pg_database as pg_database  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414 - the fixture
from tests.rigs.rabbitmq import rabbitmq as rabbitmq  # noqa: PLC0414 - the fixture
from tests.rigs.streams import jetstream as jetstream  # noqa: PLC0414 - the fixture
from tests.rigs.streams import valkey as valkey  # noqa: PLC0414 - the fixture
