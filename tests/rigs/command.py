"""Runs the `headwater` command in a separate process, without importing its libraries each time.

A server imports the libraries once and forks a process for each command. The process receives the arguments, the folder, the
environment and the output files, and runs the entry point of the console script. The quick suite runs about two hundred commands,
and imports were most of their cost. `make proofs` runs the installed console script.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tests.rigs.proofs import PROOFS

BIN = Path(sys.executable).parent
PRELOADED = (
    "cluster.cli.app",
    "cluster.cli.console",
    "cluster.cli.running",
    "pipeline.report.page",
    "pipeline.runner.runner",
)


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a shell with this Python's commands in its PATH."""
    return {**os.environ, "COLUMNS": "160", "PATH": f"{BIN}:{os.environ['PATH']}", **(changes or {})}


@dataclass(frozen=True)
class CommandServer:
    """Runs one command at a time."""

    process: subprocess.Popen[str]

    def run(self, *words: str, cwd: Path, env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Run `headwater`; return its output and exit code.

        After `timeout` seconds, kill the process and raise `TimeoutExpired`.
        """
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / "out", Path(folder) / "err"]
            request = {"words": words, "cwd": str(cwd), "env": dict(env), "files": [str(file) for file in files]}
            pid = self._answer(json.dumps(request))
            timer = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
            timer.start()
            code = self._answer("wait")
            timer.cancel()
            if code == -signal.SIGKILL:
                raise subprocess.TimeoutExpired(["headwater", *words], timeout)
            out, err = (file.read_text(encoding="utf-8") for file in files)
            return subprocess.CompletedProcess(["headwater", *words], code, out, err)

    def _answer(self, line: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


class ConsoleScript:
    """Runs the installed command."""

    def run(self, *words: str, cwd: Path, env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Run the command like a shell."""
        command = [str(BIN / "headwater"), *words]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)


@contextlib.contextmanager
def headwater_command() -> Iterator[CommandServer | ConsoleScript]:
    """Yield the runner of the command: the console script in `make proofs`, otherwise a server."""
    if PROOFS or not hasattr(os, "fork"):
        yield ConsoleScript()
        return
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the tests
    ) as process:
        yield CommandServer(process)  # the server ends when its input is closed


def _serve() -> None:
    """Fork a process for each command, and return in the child; exit when the input ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    pid = 0
    for line in sys.stdin:
        if line == "wait\n":
            sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        else:
            pid = os.fork()
            if pid == 0:
                _become(**json.loads(line))
                return
            sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    sys.exit()


def _become(words: list[str], cwd: str, env: dict[str, str], files: list[str]) -> None:
    """Set up this process as if a shell had started it."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["headwater", *words]
    modes: list[tuple[str, str]] = [(os.devnull, "r"), *((file, "w") for file in files)]
    streams: list[Any] = []
    for number, (path, mode) in enumerate(modes):
        with open(path, mode) as file:  # noqa: PTH123 - a file descriptor
            os.dup2(file.fileno(), number)
        streams.append(open(number, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - open until the process ends
    sys.stdin, sys.stdout, sys.stderr = streams


def _run() -> NoReturn:
    """Run the command, and end the process without clearing its memory, which takes as long as a short command."""
    from cluster.cli import main  # noqa: PLC0415 - after the process has become that of the command

    code: object = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    threading._shutdown()  # noqa: SLF001 - as at the end of a process
    atexit._run_exitfuncs()  # noqa: SLF001 - likewise
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve()
    _run()
