"""Runs a program that writes messages, one line of JSON each."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from pipeline.core import scratch
from pipeline.core.clients import message_of
from pipeline.core.credentials import is_reference, secret
from pipeline.core.errors import Place, SourceError
from pipeline.core.event_time import format_duration

IDLE = timedelta(minutes=30)
"""How long a program may write nothing by default."""
_END_S = 10.0
_SHOWN, _SEARCHED = 400, 1 << 16
_LEAST_SECRET = 4
_READ_BYTES = 1 << 18


@dataclass(frozen=True)
class Program:
    """A command, and the values of its configuration, which may be references such as `env:NAME`."""

    command: tuple[str, ...]
    config: Mapping[str, Any]
    idle: timedelta = IDLE
    """How long it may write nothing, neither messages nor logs."""

    @contextmanager
    def running(self, arguments: Sequence[str], files: Mapping[str, Any]) -> Iterator[Iterator[bytes]]:
        """Yield the lines that the program writes.

        Each of `files` is an option and a JSON value, which the program gets as a file that only this user can read; so
        does `--config`. The program is ended if the context ends earlier. Raises `SourceError` if it cannot be started,
        if it writes nothing for too long, and when its output ends if it fails. An error in the context is raised without the credentials of the program,
        because it may quote what the program wrote.
        """
        config = self.resolved()
        with scratch.folder("tap") as folder:
            options: list[str] = []
            for number, (option, value) in enumerate({"--config": config, **files}.items()):
                path = Path(folder) / f"{number}.json"
                path.touch(mode=0o600)
                path.write_text(json.dumps(value), encoding="utf-8")
                options += [option, str(path)]
            with (Path(folder) / "errors").open("w+b") as errors:
                process = self._started([*self.command, *arguments, *options], errors)
                try:
                    yield self._lines(process, errors)
                except SourceError as error:
                    got = None if error.got is None else self.hidden(error.got)
                    raise type(error)(self.hidden(error.problem), got=got, do=error.do, place=error.place) from None
                finally:
                    _end(process)

    def resolved(self) -> Mapping[str, Any]:
        """Return the configuration with all references replaced by their values."""
        values: Mapping[str, Any] = _resolved(self.config, "config")
        return values

    def _started(self, command: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 - the command is the definition's
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        except OSError as error:
            do = "install it, or write its path"
            raise SourceError(f"{self.command[0]!r} cannot be started", got=message_of(error), do=do) from error

    def _lines(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> Iterator[bytes]:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        started: list[bytes] = []
        while data := self._read(process.stdout, errors):
            first, *lines = data.split(b"\n")
            started.append(first)
            for line in lines:
                yield b"".join(started) + b"\n"
                started = [line]
        if any(started):
            yield b"".join(started)
        try:
            status = process.wait(self.idle.total_seconds())
        except subprocess.TimeoutExpired as error:
            raise self._failed("has closed its output and does not end", errors) from error
        if status != 0:
            raise self._failed(f"failed with status {status}", errors)

    def _read(self, output: IO[bytes], errors: IO[bytes]) -> bytes:
        """Return the next bytes of the output, none at its end; raise `SourceError` if nothing is written for too long."""
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            logged = -1
            while logged < (size := os.fstat(errors.fileno()).st_size):
                logged = size
                if selector.select(self.idle.total_seconds()):
                    return os.read(output.fileno(), _READ_BYTES)
        do = "see why it hangs, or give it more time: idle_timeout="
        raise self._failed(f"has written nothing for {format_duration(self.idle)}", errors, do)

    def _failed(self, problem: str, errors: IO[bytes], do: str | None = None) -> SourceError:
        """Return an error with the end of what the program has logged."""
        errors.seek(0, os.SEEK_END)
        errors.seek(max(0, errors.tell() - _SEARCHED))
        # whole credentials, also of several lines, are replaced before anything is cut
        text = " ".join(self.hidden(errors.read().decode("utf-8", "replace")).split())[-_SHOWN:]
        program = self.command[0]
        return SourceError(f"{program!r} {problem}", got=text or None, do=do, place=Place(program))

    def hidden(self, text: str) -> str:
        """Return a text without the values of references in the configuration."""
        for value in sorted(_secrets(self.config), key=len, reverse=True):
            text = text.replace(value, "***") if len(value) >= _LEAST_SECRET else text
        return text


def _resolved(value: Any, what: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _resolved(each, f"{what}[{name!r}]") for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(each, what) for each in value]
    return secret(value, what) if isinstance(value, str) else value


def _secrets(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in _secrets(each)]
    if isinstance(value, list | tuple):
        return [text for each in value for text in _secrets(each)]
    return [secret(value, "config")] if isinstance(value, str) and is_reference(value) else []


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program with its children, if it is still running."""
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)  # the program is the leader of a group of its own
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
