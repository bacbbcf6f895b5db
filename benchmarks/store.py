"""A run of 20 tables whose lake is on a distant object store, compared with one whose lake is a local folder.

Run as `python -m benchmarks.store [RUNS] [SECONDS]`. Each request to the store (SeaweedFS on loopback) takes 30 to 50 ms
longer than without the delay, or as many seconds as given. Runs are interleaved; shown are medians in seconds, and the ratio to the local lake.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.delay import delayed
from benchmarks.object_store import client, credentials, object_store
from pipeline.project import load
from pipeline.runner import Runner
from pipeline.runner.decide import RunOptions

TABLES, ROWS = 20, 1_000
LATENCY_S, JITTER_S = 0.03, 0.02
KINDS = ("first", "nothing new", "append")
DEFINITIONS = (
    "from pipeline import files, source, sql\n"
    'raw = source(files("data/*.csv"), schema={"a": "bigint"})\n'
    + "".join(f't{n} = sql("select a + {n} as a from raw", key="a")\n' for n in range(1, TABLES))
)


def project(folder: Path, options: Mapping[str, str] | None) -> Path:
    """Write a project with a local lake, or with one on a store with these options."""
    lake = "" if options is None else f'lake = "s3://lake/{folder.name}"\n[env.dev.storage]\n'
    lines = "".join(f'{name} = "{value}"\n' for name, value in (options or {}).items() if "SECRET" not in name)
    if options is not None:
        (folder / "secret").write_text(options["AWS_SECRET_ACCESS_KEY"])
        lines += f'AWS_SECRET_ACCESS_KEY = "${{file:{folder / "secret"}}}"\n'
    (folder / "headwater.toml").write_text(f'[project]\nname = "p"\ndefinitions = "p.py"\n[env.dev]\n{lake}{lines}')
    (folder / "p.py").write_text(DEFINITIONS)
    (folder / "data").mkdir()
    _rows(folder, 0)
    return folder


def _rows(folder: Path, file: int) -> None:
    numbers = range(file * ROWS, (file + 1) * ROWS)
    (folder / "data" / f"{file}.csv").write_text("a\n" + "".join(f"{n}\n" for n in numbers))


def timed(folder: Path) -> dict[str, float]:
    """Return the seconds of each kind of run of a new project."""
    seconds = {}
    for number, kind in enumerate(KINDS):
        if kind == "append":
            _rows(folder, number)
        loaded = load(folder)
        begun = time.perf_counter()
        Runner(loaded, RunOptions()).run()
        seconds[kind] = time.perf_counter() - begun
    return seconds


def main() -> None:
    """Run and print."""
    runs, *delay = [float(text) for text in sys.argv[1:]] or [5]
    latency_s, jitter_s = (delay[0], 0.0) if delay else (LATENCY_S, JITTER_S)
    seconds: dict[str, list[dict[str, float]]] = {"local": [], "store": []}
    with object_store() as ports, delayed(ports["s3.port"], latency_s, jitter_s) as port:
        client(f"http://127.0.0.1:{ports['s3.port']}").mkdir("lake")
        for number in range(int(runs) + 1):  # the first warms up
            for name, options in (("local", None), ("store", credentials(f"http://127.0.0.1:{port}"))):
                folder = Path(tempfile.mkdtemp(prefix="store-"))
                ran = timed(project(folder, options))
                seconds[name] += [ran] if number else []
                shutil.rmtree(folder)
    for kind in KINDS:
        local, store = (statistics.median(each[kind] for each in seconds[name]) for name in seconds)
        print(f"{kind:12} local {local:6.2f} s  store {store:6.2f} s  ratio {store / local:5.2f}")


if __name__ == "__main__":
    main()
