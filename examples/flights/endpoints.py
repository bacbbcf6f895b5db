"""Asks the endpoints of the flights project as an airline, as an analyst and as nobody: REST, GraphQL, OData, SQL and Flight SQL.

python endpoints.py         # after `headwater run`
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import uvicorn

from pipeline.governance.api_keys import ApiKeys
from pipeline.project import Workspace, load
from pipeline.project.project import Project
from serve import create_app
from serve.client import ApiClient
from serve.flight.server import FlightServer

HERE = Path(__file__).parent
LATE = "select carrier, count(*) as late from fact_flight where is_late group by carrier order by late desc limit 3"
BY_DAY = "/v1/tables/fact_flight?select=origin,flights:count(),arr_delay.avg()&order=origin"


def main() -> None:
    """Ask, and print the answers."""
    project = load(HERE)
    serve = replace(project.settings.serve, requests_per_second=50.0, burst=150)
    project = replace(project, settings=replace(project.settings, serve=serve))
    with served(project) as (url, flight):
        with key_of(project, "an airline", roles=["airline"], claims={"carrier": "UA"}) as airline:
            ask_as_nobody(url)
            ask_as_airline(url, airline)
        with key_of(project, "an analyst", scopes=["read", "query"]) as analyst:
            ask_as_analyst(url, flight, analyst)
            send_too_many(url, analyst)


def ask_as_nobody(url: str) -> None:
    """Read what is public."""
    public = httpx.get(f"{url}/v1/tables").json()["tables"]
    print(f"without a key: {', '.join(table['name'] for table in public)}", flush=True)


def ask_as_airline(url: str, key: str) -> None:
    """Read the flights of one airline over each interface: the policy is the same."""
    headers = {"Authorization": f"Bearer {key}"}
    with ApiClient(url, key) as client:
        rest = client.arrow("fact_flight", select="count()")["count"][0].as_py()
    graphql = httpx.post(f"{url}/v1/graphql", headers=headers, json={"query": "{ fact_flight { totalCount } }"}).json()
    odata = httpx.get(f"{url}/v1/odata/fact_flight/$count", auth=("anyone", key)).text
    counted = graphql["data"]["fact_flight"]["totalCount"]
    print(f"United sees its flights: {rest:,} by REST, {counted:,} by GraphQL, {int(odata):,} by OData", flush=True)
    hidden = httpx.get(f"{url}/v1/tables/fact_flight?select=tailnum", headers=headers).json()
    print(f"  tail numbers: {hidden['detail']}", flush=True)
    by_rest = httpx.get(f"{url}/v1/metrics/on_time_rate", headers=headers).json()["rows"][0]["on_time_rate"]
    document = {"query": "{ metric_on_time_rate { rows { value } } }"}
    by_graphql = httpx.post(f"{url}/v1/graphql", headers=headers, json=document).json()
    [row] = by_graphql["data"]["metric_on_time_rate"]["rows"]
    print(f"  its metric on_time_rate: {by_rest:.2%} by REST, {row['value']:.2%} by GraphQL", flush=True)


def ask_as_analyst(url: str, flight: str, key: str) -> None:
    """Read all flights, in SQL over HTTP and over Flight SQL; compare the first answer with the next ones."""
    with ApiClient(url, key) as client:
        rows = client.query(LATE).to_pylist()
        print(
            "an analyst asks in SQL: " + ", ".join(f"{row['carrier']} late {row['late']:,} times" for row in rows),
            flush=True,
        )
        query_id = client.submit("select * from fact_flight order by arr_delay desc")
        table = client.result(query_id)
        size = client.query_status(query_id)["bytes"]
        client.end_query(query_id)
        print(f"  in the background: {table.num_rows:,} flights in order, {size / 1e6:.0f} MB on disk", flush=True)
    try:
        import adbc_driver_flightsql.dbapi as driver
    except ImportError:
        print("  Flight SQL: install adbc-driver-flightsql", flush=True)
    else:
        login = {"username": "anyone", "password": key}
        with driver.connect(flight, db_kwargs=login, autocommit=True) as connection, connection.cursor() as cursor:
            took = timed(lambda: cursor.execute("select * from fact_flight"))
            table = cursor.fetch_arrow_table()
        print(
            f"  Flight SQL: {table.num_rows:,} flights, {table.nbytes / 1e6:.0f} MB ({took:.0f} ms to the first)",
            flush=True,
        )
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
        cold = timed(lambda: client.get(BY_DAY).raise_for_status())
        client.get(BY_DAY)
        warm = statistics.median(timed(lambda: client.get(BY_DAY).raise_for_status()) for _ in range(20))
    print(f"  the same page again: {cold:.1f} ms at first, {warm:.1f} ms from memory", flush=True)


def send_too_many(url: str, key: str) -> None:
    """Send requests until the server asks to wait."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
        for number in range(1, 1_000):
            answer = client.get("/v1/tables/on_time_by_hour?limit=1")
            if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
                print(
                    f"after {number:,} more requests: {answer.json()['title']}, wait {answer.headers['retry-after']} s",
                    flush=True,
                )
                return


def timed(call: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


@contextmanager
def key_of(project: Project, name: str, **options: object) -> Iterator[str]:
    """Create a key, as `headwater keys create` does, and revoke it at the end."""
    keys = ApiKeys(Workspace(project).catalog, project.settings.env)
    text, key = keys.create(name, **options)  # type: ignore[arg-type]
    try:
        yield text
    finally:
        keys.revoke(key.id)


@contextmanager
def served(project: Project) -> Iterator[tuple[str, str]]:
    """Serve the project on loopback, in this process; `headwater serve --flight-port PORT` does it on Ray Serve."""
    app = create_app(project)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    flight = FlightServer(app.state.backend, "127.0.0.1", 0)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", f"grpc://127.0.0.1:{flight.port}"
    finally:
        flight.close()
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
