"""Starts the systems of the shop on loopback, runs the project before and after something happens in each, and compares.

python demo.py         # needs PostgreSQL's programs, and Kafka from `make kafka`; the rest is from PyPI
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
from confluent_kafka import Producer

from benchmarks.kafka import Cluster
from benchmarks.object_store import client, credentials, object_store
from benchmarks.postgres import postgres_server
from pipeline.core.errors import UnavailableError

HERE = Path(__file__).parent
HEADWATER = Path(sys.executable).with_name("headwater")
TOKEN = "shop-token"  # noqa: S105 - of an API on loopback
FIRST_DAY = date(2026, 11, 1)
ANSWER = "select country, orders, euros, paid_euros, not_shipped from revenue_by_country order by country"
FAULTS, FAULTS_EVERY = {2: HTTPStatus.SERVICE_UNAVAILABLE, 7: HTTPStatus.TOO_MANY_REQUESTS}, 10
COUNTRIES, CURRENCIES = ("DE", "FR", "PL", "SE"), ("EUR", "PLN", "SEK", "USD")


def main() -> None:
    """Run the demo; exit with 1 if a system is missing, or if an answer is wrong."""
    with ExitStack() as stack:
        try:
            database = stack.enter_context(postgres_server())
            store = f"http://127.0.0.1:{stack.enter_context(object_store())['s3.port']}"
            brokers = stack.enter_context(Cluster(Path(stack.enter_context(tempfile.TemporaryDirectory())))).bootstrap
        except UnavailableError as error:
            sys.exit(f"the shop cannot be started: {error}")
        api, requests = stack.enter_context(rates_api())
        environment = {
            **os.environ,
            **credentials(store),
            "SHOP_DATABASE": database,
            "SHOP_API": api,
            "SHOP_API_TOKEN": TOKEN,
            "SHOP_BUCKET": "s3://shop",
            "SHOP_BROKERS": brokers,
        }
        shutil.rmtree(HERE / ".headwater", ignore_errors=True)
        headwater(environment, "topics", "apply")
        shop = Shop(database, store, brokers)
        for what, happens in (("the first run", shop.opens), ("after changes in every system", shop.goes_on)):
            happens()
            print(f"\n== {what} ==", flush=True)
            headwater(environment, "run", "--no-summary")
            headwater(environment, "query", ANSWER)
            shop.compare(answer(environment))
        headwater(environment, "quarantine", "ls")
        headwater(environment, "show", "raw_shipments", "--limit", "3")
        headwater(environment, "lineage", "revenue_by_country")
        print(
            f"\nThe API answered {requests['200']} requests, {requests['503']} with 503 and {requests['429']} with 429."
        )


def headwater(environment: dict[str, str], *words: str) -> None:
    """Run a command of the project, with its output."""
    subprocess.run([HEADWATER, *words], cwd=HERE, env=environment, check=True)


def answer(environment: dict[str, str]) -> list[dict[str, Any]]:
    """Return the rows of the mart."""
    done = subprocess.run(
        [HEADWATER, "query", "--json", ANSWER], cwd=HERE, env=environment, check=True, capture_output=True, text=True
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


class Shop:
    """The systems of the shop, and what happens in them."""

    def __init__(self, database: str, store: str, brokers: str) -> None:
        """Create the tables and the bucket."""
        self.database = database
        self.store = client(store)
        self.store.mkdir("shop")
        self.producer = Producer({"bootstrap.servers": brokers, "log_level": 0})
        self.sql(
            "create table customers (id bigint primary key, name text, country text, updated_at timestamptz default now())",
            "create table orders (id bigint primary key, customer_id bigint, currency text, amount numeric(12, 2), "
            "status text, ordered_at timestamp)",
        )

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements, each in a transaction of its own, and return the rows of the last one."""
        rows: list[tuple[Any, ...]] = []
        with psycopg.connect(self.database, autocommit=True) as con:
            for statement in statements:
                cursor = con.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def opens(self) -> None:
        """Fill every system."""
        self.sql(
            f"insert into customers (id, name, country) select i, 'Customer ' || i, (array{list(COUNTRIES)})[i % 4 + 1] "
            "from generate_series(1, 50) i",
            f"insert into orders select i, i % 50 + 1, (array{list(CURRENCIES)})[i % 4 + 1], 10 + i, 'new', "
            f"timestamp '{FIRST_DAY}' + (i % 5) * interval '1 day' from generate_series(1, 500) i",
        )
        self.ship("day-1.csv", "order_id,carrier,shipped_at", range(1, 300))
        self.pay(range(1, 400))

    def goes_on(self) -> None:
        """Change something in every system."""
        self.sql(
            "insert into orders values (501, 1, 'EUR', 99.99, 'new', now()), (502, 2, 'SEK', 1000, 'new', "
            f"timestamp '{FIRST_DAY}')",
            "update orders set status = 'cancelled' where id % 10 = 0",
            "update orders set amount = amount * 2 where id = 7",
            "delete from orders where id in (11, 12, 13)",
            "update customers set country = 'SE', updated_at = now() where id <= 5",
        )
        self.ship("day-2.csv", "order_id,carrier,shipped_at,weight_kg", range(300, 450), more=",1.5")
        self.pay(range(390, 480))  # some are sent a second time

    def ship(self, name: str, header: str, orders: range, more: str = "") -> None:
        """Write a file of the carrier; its last line is damaged."""
        lines = [header, *(f"{order},Parcels,2026-11-06 10:00:00{more}" for order in orders), f"?,Parcels,soon{more}"]
        with self.store.open(f"shop/shipments/{name}", "w") as file:
            file.write("\n".join(lines) + "\n")

    def pay(self, orders: range) -> None:
        """Send payments."""
        for order in orders:
            payment = {
                "payment_id": f"p-{order}",
                "order_id": order,
                "euros": "10.00",
                "paid_at": "2026-11-07T08:00:00Z",
            }
            self.producer.produce("payments", json.dumps(payment).encode(), key=str(order).encode())
        self.producer.flush(30)

    def compare(self, rows: list[dict[str, Any]]) -> None:
        """Compare the mart's orders with the database; exit if they differ."""
        expected = self.sql(
            "select country, count(*) from orders join customers c on c.id = customer_id where status <> 'cancelled' "
            "group by country order by country"
        )
        if [(row["country"], row["orders"]) for row in rows] != expected:
            sys.exit(f"the mart differs from the database: {rows}, not {expected}")


@contextmanager
def rates_api() -> Iterator[tuple[str, dict[str, int]]]:
    """Serve exchange rates in pages; yield the address and the number of answers by status.

    Every fifth request is answered with 503 or 429, and one row has a text instead of a number.
    """
    counts = dict.fromkeys(map(str, (200, 401, 429, 503)), 0)
    days = [FIRST_DAY + timedelta(days=n) for n in range(60)]
    rates = {"EUR": "1", "PLN": "0.23", "SEK": "0.09", "USD": "0.92"}
    rows = [{"currency": c, "day": day.isoformat(), "euros": rate} for day in days for c, rate in rates.items()]
    rows[-1]["euros"] = "n/a"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(401, {"error": "who are you?"})
            elif fault := FAULTS.get(sum(counts.values()) % FAULTS_EVERY):
                self.answer(fault, {"error": "try again"})
            else:
                page = int(parse_qs(urlsplit(self.path).query).get("page", ["1"])[0])
                self.answer(200, {"rates": rows[(page - 1) * 25 : page * 25], "page": page, "total_pages": 10})

        def answer(self, status: int, content: dict[str, object]) -> None:
            counts[f"{status:d}"] += 1
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status == HTTPStatus.TOO_MANY_REQUESTS:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", counts
        finally:
            server.shutdown()


if __name__ == "__main__":
    main()
