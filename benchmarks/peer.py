"""Peers: the same job by another engine, in its own process and its own environment (`make peers`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.interleaved_runs import RELATIVE, Answer, Contestant, Ran, UnableError
from benchmarks.measure import measure

ROOT = Path(__file__).parents[1]
NAMES = sorted(file.stem.removeprefix("in_") for file in Path(__file__).with_name("peers").glob("in_*.py"))
JAVA = {"spark", "spark_streams", "flink"}
Compared = Literal["wall", "parts"]
"""What is compared: the process from start to end less what it says its engine took to start, or the sum of its parts."""


def interpreter(home: str = "") -> Path:
    """Return the Python of a peers' environment: `.peers`, or `HEADWATER_BENCH_PEERS`. It may not be there.

    Peers that cannot live with the others have a home of their own, `.peers-NAME` for `-NAME`.
    """
    folder = Path(os.environ.get("HEADWATER_BENCH_PEERS") or ROOT / ".peers")
    return folder.with_name(folder.name + home) / "bin" / "python"


@dataclass(frozen=True)
class Script:
    """A job of the module `peers/in_NAME.py`, which gets the arguments and a folder.

    It writes what it made into the folder, for `answer` to read when the clock has stopped, and prints one
    JSON object: `start`, the seconds its engine took to start, and `parts`, the seconds of each part.
    """

    name: str
    job: str
    arguments: Sequence[str | Path]
    answer: Callable[[Path], Answer]
    compare: Compared = "wall"
    home: str = ""
    """Of the environment; see `interpreter`."""

    def command(self, folder: Path, python: Path) -> list[str]:
        """Return the words that run it in a folder."""
        module = f"benchmarks.peers.in_{self.name}"
        return [str(python), "-m", module, self.job, *map(str, self.arguments), str(folder)]

    def environ(self, folder: Path) -> dict[str, str]:
        """Return what it needs in its environment."""
        return {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}

    def run(self, folder: Path, python: Path) -> Ran:
        """Run it in a folder; raise `UnableError` when it fails."""
        result = measure(self.command(folder, python), folder, environ=self.environ(folder))
        if result.code:
            lines = [line for line in result.errors.strip().splitlines() if line.strip()]
            raise UnableError(f"ended with {result.code}: {lines[-1][:300] if lines else 'without a word'}")
        answer = json.loads(result.output.strip().splitlines()[-1])
        parts = {"start": answer["start"], **answer["parts"]}
        seconds = result.seconds - answer["start"] if self.compare == "wall" else sum(answer["parts"].values())
        return Ran(seconds, result.seconds, result.peak_bytes, self.answer(folder), parts)


def peer(script: Script, *, relative: float = RELATIVE) -> Contestant:
    """Return a peer's script as a contestant, in the peers' environment."""

    def run(folder: Path) -> Ran:
        require(script)
        return script.run(folder, interpreter(script.home))

    return Contestant(script.name, run, relative=relative)


def versions(home: str = "") -> dict[str, str]:
    """Return the versions of what a peers' environment holds, or nothing when it is not there."""
    if not interpreter(home).exists():
        return {}
    code = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    process = subprocess.run([str(interpreter(home)), "-c", code], capture_output=True, text=True, check=True)
    installed: dict[str, str] = json.loads(process.stdout)
    return dict(sorted(installed.items()))


def require(script: Script) -> None:
    """Raise `UnableError` for a peer that is not here."""
    if not interpreter(script.home).exists():
        raise UnableError(f"not here: no {interpreter(script.home)}; run `make peers`")
    jars = interpreter(script.home).parents[1] / "jars"
    if script.home and script.name in JAVA and not any(jars.glob("*kafka*.jar")):
        raise UnableError(f"not here: no connector to Kafka in {jars}; run `make peers`")
    if script.name in JAVA and shutil.which("java") is None:
        raise UnableError(f"not here: {script.name} needs Java 17")
