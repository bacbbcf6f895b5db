"""A function of the project that is handed the rows.

Delivery: at least once, in order: a process that dies after the function returned and before that was noted hands the
same rows over again, with the same version.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.core.errors import SinkError
from pipeline.core.sinks import Delivery, SinkContext, SinkPosition, is_delivered

Function = Callable[[int, pa.Table], object]


@dataclass(frozen=True)
class ToCallback:
    """Calls functions with a version and rows. Make one with `to_callback`."""

    function: Function
    gone: Function | None = None

    def open(self, home: SinkContext) -> CallbackTarget:
        """Find how far it is: in a file of the project's folder for state."""
        return CallbackTarget(self, home.state / "sinks" / f"{home.env}.{home.sink}.json")

    def __str__(self) -> str:
        """Return the function's name."""
        return f"function {getattr(self.function, '__qualname__', repr(self.function))}"


def to_callback(function: Function, *, gone: Function | None = None) -> ToCallback:
    """Call `function(version, rows)` with rows as an Arrow table, at least once and in order.

    An error of the function is the sink's: it is called again with these rows. `gone` is called, after it, with the rows that
    are no longer in the table; without it a table that rows go from is refused.
    """
    return ToCallback(function, gone)


@dataclass
class CallbackTarget:
    """Functions to call, and the file that says which version they were called with."""

    to: ToCallback
    file: Path

    def reached(self) -> SinkPosition | None:
        """Return the version in the file."""
        try:
            return SinkPosition.from_json(self.file.read_text())
        except FileNotFoundError:
            return None

    def write(self, delivery: Delivery) -> None:
        """Call the functions that there are rows for, then note the version."""
        if is_delivered(delivery, self.reached()):
            return
        if delivery.is_whole and delivery.since is not None:
            raise SinkError(
                "what changed in the table since cannot be told any more, and this sink cannot be sent all of it again",
                got=f"version {delivery.to.version} after {delivery.since.version}",
                do=f"to call the function with all rows, remove {self.file}",
            )
        if delivery.gone.num_rows and self.to.gone is None:
            raise SinkError(
                f"rows went from the table, and {self.to} is not told of that",
                got=f"{delivery.gone.num_rows} rows up to version {delivery.to.version}",
                do="give to_callback(…, gone=) a function for them",
            )
        self._call(self.to.function, delivery.to.version, delivery.rows.read_all())
        if self.to.gone is not None:
            self._call(self.to.gone, delivery.to.version, delivery.gone)
        self._note(delivery.to)

    def close(self) -> None:
        """Do nothing: it holds nothing."""

    def _call(self, function: Function, version: int, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        try:
            function(version, rows)
        except Exception as error:
            raise SinkError(
                f"{self.to} failed on version {version}",
                got=f"{type(error).__name__}: {error}",
                do="it is called again",
            ) from error

    def _note(self, position: SinkPosition) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        written = self.file.with_suffix(".new")
        with written.open("w") as file:
            file.write(position.to_json())
            file.flush()
            os.fsync(file.fileno())
        written.replace(self.file)
