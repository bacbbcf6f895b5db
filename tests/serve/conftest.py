"""A café as a project: orders with every type that a lake stores, and the app that serves them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.governance.api_keys import SCOPES, ApiKeys
from pipeline.project.project import Project, load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from serve import create_app

with warnings.catch_warnings():
    # starlette recommends httpx2, which is new and not yet widely used
    warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
    from starlette.testclient import TestClient

TOML = """\
[project]
name = "cafe"
definitions = "cafe.py"

[env.dev.serve]
requests_per_second = 10000
burst = 10000
anonymous_requests_per_second = 10000
"""
CAFE = '''\
from pathlib import Path

from pipeline import drop, files, mart, source, sql

raw_orders = source(files(Path(__file__).parent / "data" / "orders*.csv"), schema={
    "order_id": "bigint", "day": "date", "paid_at": "timestamptz", "guest": "varchar", "cups": "integer",
    "price": "decimal(10,2)", "rating": "double", "is_member": "boolean",
})
orders = sql("select * from raw_orders", key="order_id")

cafe_orders = mart(
    """
    -- One row per order.
    select order_id, day, paid_at, guest, cups, price, rating, is_member from orders
    """,
    key="order_id",
)
guests = mart("select guest, count(*) as orders from orders group by guest", key="guest")
cups = mart("select cups from orders", description="No key: rows that are equal.")
shapes = mart(
    """
    select order_id,
           paid_at::timestamp as clock,
           [rating, 'nan'::double] as ratings,
           {'at': paid_at, 'guest': guest, 'scores': [{'x': 'inf'::double}]} as nested,
           map {'rating': 'nan'::double, 'one': 1.0} as scores,
           encode(guest) as bytes,
           order_id as "order",
           guest as "group by; "" é"
    from orders
    """,
    key="order_id",
)
nobody = sql("select order_id, guest from orders", layer="gold", key="order_id", expect=[drop("is_nobody", "false")])
later = mart("select order_id from orders", key="order_id", description="Not made yet.")
'''
HEADER = "order_id,day,paid_at,guest,cups,price,rating,is_member\n"
ORDERS = '''\
1,2026-01-05,2026-01-05T08:00:00Z,Ann,1,2.50,4.5,true
2,2026-01-05,2026-01-05T09:30:00.25Z,Bo,2,5.00,nan,false
3,2026-01-06,2026-01-06T10:00:00+02:00,"O'Hara, ""Kit""",3,7.50,inf,true
4,2026-01-06,2026-01-06T11:00:00Z,Žoë 🫖,1,2.50,3.0,
5,2026-01-07,2026-01-07T12:00:00Z,100%,,-1.05,,false
'''


AIRPORTS = """
from pathlib import Path

from pipeline import access_policy, dimension, fact, files, lookup, source

here = Path(__file__).parent
raw_airports = source(files(here / "airports.csv"), schema={"code": "varchar", "city": "varchar", "owner": "varchar"})
raw_flights = source(files(here / "flights.csv"), schema={"id": "bigint", "origin": "varchar", "dest": "varchar", "late": "integer"})
dim_airport = dimension("select code, city, owner from raw_airports", key="code")
flights = fact(
    "select id, origin, dest, late from raw_flights", key="id",
    lookups={"from_key": lookup("dim_airport", {"origin": "code"}), "to_key": lookup("dim_airport", {"dest": "code"})},
)
no_owner = access_policy("dim_airport", roles="public-*", rows="city <> 'Secret'", hide="owner")
all_airports = access_policy("dim_airport", roles="staff")
"""


@dataclass(frozen=True)
class Cafe:
    """A project folder to which orders can be added, and which can be run."""

    root: Path

    def add(self, name: str, rows: str) -> None:
        (self.root / "data" / f"orders_{name}.csv").write_text(HEADER + rows, encoding="utf-8")

    def run(self, *more: str) -> None:
        Runner(self.project(), RunOptions(select=("+cafe_orders", "+guests", "+cups", *more))).run()

    def project(self) -> Project:
        return load(self.root)

    def key(self, *, scopes: Sequence[str] = SCOPES, **options: Any) -> str:
        """A new key, by default with all scopes."""
        project = self.project()
        catalog = Workspace(project).catalog
        text, _ = ApiKeys(catalog, project.settings.env).create("a test", scopes=scopes, **options)
        catalog.close()
        return text

    def client(self, *, key: str | None = None, **options: Any) -> AbstractContextManager[TestClient]:
        """The app, called with a key: by default one with all scopes; an empty text is none."""
        text = self.key() if key is None else key
        headers = {"Authorization": f"Bearer {text}"} if text else {}
        app = create_app(self.project(), **options)
        return TestClient(app, raise_server_exceptions=False, headers=headers)


def problem_of(answer: Any) -> dict[str, str | None]:
    """The parts of an error response, whose other members are checked."""
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["instance"].removeprefix("urn:uuid:") == answer.headers["x-request-id"]
    assert set(body) <= {"type", "title", "status", "detail", "instance", "got", "do"}
    return {"problem": body["detail"], "got": body.get("got"), "do": body.get("do")}


def open_cafe(root: Path) -> Cafe:
    (root / "headwater.toml").write_text(TOML)
    (root / "cafe.py").write_text(CAFE, encoding="utf-8")
    (root / "data").mkdir()
    cafe = Cafe(root)
    cafe.add("first", ORDERS)
    cafe.run("shapes", "nobody")
    return cafe


@pytest.fixture(scope="session")
def at() -> Callable[[Path], Cafe]:
    """The project in a folder, with the methods of the café."""
    return Cafe


@pytest.fixture
def cafe(tmp_path) -> Cafe:
    """A café for a single test."""
    return open_cafe(tmp_path)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """The app of a café that is not changed."""
    with open_cafe(tmp_path_factory.mktemp("cafe")).client() as client:
        yield client


@pytest.fixture(scope="session")
def airports(tmp_path_factory) -> Cafe:
    """Flights and the airports that they refer to, which policies show in part. It is not changed."""
    root = tmp_path_factory.mktemp("airports")
    (root / "headwater.toml").write_text(
        '[project]\nname = "airports"\ndefinitions = "airports.py"\n[env.dev.serve]\nburst = 5000\n'
    )
    (root / "airports.py").write_text(AIRPORTS)
    (root / "airports.csv").write_text("code,city,owner\nJFK,New York,PA\nLAX,Los Angeles,LAWA\nXXX,Secret,X\n")
    (root / "flights.csv").write_text("id,origin,dest,late\n1,JFK,LAX,5\n2,LAX,JFK,0\n3,XXX,JFK,9\n4,JFK,ZZZ,1\n")
    Runner(Cafe(root).project(), RunOptions()).run()
    return Cafe(root)


@pytest.fixture(scope="module")
def staff(airports):
    """The app of the airports for a caller that sees all of them."""
    with airports.client(key=airports.key(roles=["staff"])) as client:
        yield client


@pytest.fixture(scope="module")
def public(airports):
    """The app of the airports for a caller that sees some of them, without their owners."""
    with airports.client(key=airports.key(roles=["public-eu"])) as client:
        yield client


@pytest.fixture
def rows(client) -> Callable[..., list[dict[str, Any]]]:
    """Rows of `cafe_orders` for parameters, as pairs or by name."""

    def get(*pairs: tuple[str, str], table: str = "cafe_orders", **parameters: str) -> list[dict[str, Any]]:
        answer = client.get(f"/v1/tables/{table}", params=[*pairs, *parameters.items()])
        assert answer.status_code == 200, answer.text
        return answer.json()["rows"]

    return get


@pytest.fixture
def refused(client) -> Callable[..., dict[str, str | None]]:
    """The error for a path and its parameters, after checking its status."""

    def get(path: str, status: int, *pairs: tuple[str, str], **parameters: str) -> dict[str, str | None]:
        answer = client.get(path, params=[*pairs, *parameters.items()])
        assert answer.status_code == status, answer.text
        return problem_of(answer)

    return get
