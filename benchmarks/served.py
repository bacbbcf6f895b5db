"""Servers that a benchmark starts, asks and stops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.interleaved_runs import Answer, Ran, UnableError
from benchmarks.measure import measure
from benchmarks.peer import ROOT

HEADWATER = Path(sys.executable).with_name("headwater")
_PATIENCE_S = 120.0


@contextmanager
def server(words: Sequence[object], folder: Path, address: str) -> Iterator[int]:
    """Start a server, wait until it answers at an address, and give its process; it is stopped afterwards."""
    with (folder / "server.log").open("wb") as log:
        path = f"{HEADWATER.parent}{os.pathsep}{os.environ['PATH']}"  # MLflow calls uvicorn by name
        process = subprocess.Popen(
            list(map(str, words)), stdout=log, stderr=log, cwd=folder, env={**os.environ, "PATH": path}
        )
        try:
            until = time.monotonic() + _PATIENCE_S
            while not _answers(address):
                if process.poll() is not None or time.monotonic() > until:
                    raise UnableError(f"the server does not start: {(folder / 'server.log').read_text()[-300:]}")
                time.sleep(0.2)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def command(*words: object) -> str:
    """Run a command of Headwater and return what it prints; raise `UnableError` if it fails."""
    done = subprocess.run([str(HEADWATER), *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnableError(done.stderr.strip().splitlines()[-1][:300])
    return done.stdout.strip()


def loaded(  # noqa: PLR0913 - what is asked of whom, and how it is measured
    asked: Mapping[str, Any], connections: str, seconds: float, folder: Path, process: int, answer: Answer
) -> Ran:
    """Load a server, and return the figures: compared is the sum of the mean times between two answers."""
    file = folder / "asked.json"
    file.write_text(json.dumps(asked))
    words = [sys.executable, "-m", "benchmarks.http_load", str(file), connections, str(seconds)]
    result = measure(words, folder, environ={"PYTHONPATH": str(ROOT)}, beside=[process])
    if result.code:
        raise UnableError(result.errors.strip().splitlines()[-1][:300])
    parts: dict[str, float] = json.loads(result.output.strip().splitlines()[-1])["parts"]
    each = sum(value for name, value in parts.items() if name.endswith("each"))
    return Ran(each, result.seconds, result.peak_bytes, answer, parts)


def answered(asked: Mapping[str, Any], path: str) -> Any:
    """Return what a server answers to one request, parsed as JSON."""
    body = json.dumps(asked["body"]).encode() if "body" in asked else None
    headers = {"Content-Type": "application/json", **asked.get("headers", {})}
    request = urllib.request.Request(asked["url"] + path, body, headers)  # noqa: S310 - our own server
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - likewise
        return json.loads(response.read())


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own server
            return bool(response.status == 200)  # noqa: PLR2004 - OK
    except OSError:
        return False
