"""Peers: other engines that do the same job in their own process and environment (`make peers`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.interleaved_runs import RELATIVE, Answer, Contestant, Ran, UnableError
from benchmarks.measure import measure

ROOT = Path(__file__).parents[1]
NAMES = sorted(file.stem.removeprefix("in_") for file in Path(__file__).with_name("peers").glob("in_*.py"))
JAVA = {"spark", "spark_streams", "flink"}
Compared = Literal["wall", "parts"]
"""What is compared: the entire process without the reported start-up time of the engine, or the sum of its parts."""


def interpreter(home: str = "") -> Path:
    """Return the Python of a peers' environment: `.peers`, or `HEADWATER_BENCH_PEERS`. It may not exist.

    Peers with conflicting dependencies have their own environment: `.peers-NAME` for `-NAME`.
    """
    folder = Path(os.environ.get("HEADWATER_BENCH_PEERS") or ROOT / ".peers")
    return folder.with_name(folder.name + home) / "bin" / "python"


@dataclass(frozen=True)
class Script:
    """A job of the module `peers/in_NAME.py`, which receives the arguments and a folder.

    It writes its result to the folder, where `answer` reads it after the measurement, and prints one JSON object:
    `start`, the start-up time of its engine, and `parts`, the time of each part, in seconds.
    """

    name: str
    job: str
    arguments: Sequence[str | Path]
    answer: Callable[[Path], Answer]
    compare: Compared = "wall"
    home: str = ""
    """The environment; see `interpreter`."""

    def command(self, folder: Path, python: Path) -> list[str]:
        """Return the command that runs it in a folder."""
        module = f"benchmarks.peers.in_{self.name}"
        return [str(python), "-m", module, self.job, *map(str, self.arguments), str(folder)]

    def environ(self, folder: Path) -> dict[str, str]:
        """Return the environment variables that it needs."""
        return {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}

    def run(
        self, folder: Path, python: Path, *, environ: Mapping[str, str] | None = None, beside: Sequence[int] = ()
    ) -> Ran:
        """Run it in a folder; raise `UnableError` if it fails. `beside`: see `measure`."""
        variables = {**self.environ(folder), **(environ or {})}
        result = measure(self.command(folder, python), folder, environ=variables, beside=beside)
        if result.code:
            lines = [line for line in result.errors.strip().splitlines() if line.strip()]
            raise UnableError(f"exited with {result.code}: {lines[-1][:300] if lines else 'without output'}")
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
    """Return the package versions of a peers' environment; empty if it does not exist."""
    if not interpreter(home).exists():
        return {}
    code = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    process = subprocess.run([str(interpreter(home)), "-c", code], capture_output=True, text=True, check=True)
    installed: dict[str, str] = json.loads(process.stdout)
    return dict(sorted(installed.items()))


def require(script: Script) -> None:
    """Raise `UnableError` if a peer is not installed."""
    if not interpreter(script.home).exists():
        raise UnableError(f"not available: no {interpreter(script.home)}; run `make peers`")
    jars = interpreter(script.home).parents[1] / "jars"
    if script.home and script.name in JAVA and not any(jars.glob("*kafka*.jar")):
        raise UnableError(f"not available: no Kafka connector in {jars}; run `make peers`")
    if script.name in JAVA and shutil.which("java") is None:
        raise UnableError(f"not available: {script.name} needs Java 17")
