"""The database servers of these tests."""

from __future__ import annotations

from tests.rigs.ferret import ferret as ferret  # noqa: PLC0414 - the fixture
from tests.rigs.ferret import mongo as mongo  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import maria as maria  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import mariadb as mariadb  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import mysql_database as mysql_database  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import mysql_server as mysql_server  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import pg as pg  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import pg_database as pg_database  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414 - the fixture
