"""A sink that calls a function of the project with the rows.

Delivery: at least once, in order. If the process dies after the function returned and before the version was recorded,
the function is called again with the same rows and the same version.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.core.errors import USER_CODE_ERRORS, SinkError, quantity
from pipeline.core.sinks import Delivery, SinkContext, SinkPosition, is_delivered

Function = Callable[[int, pa.Table], object]


@dataclass(frozen=True)
class ToCallback:
    """Calls functions with a version and rows. Create it with `to_callback`."""

    function: Function
    gone: Function | None = None

    def open(self, context: SinkContext) -> CallbackTarget:
        """Open the file that stores the delivered version, in the project's state folder."""
        return CallbackTarget(self, context.state / "sinks" / f"{context.env}.{context.sink}.json")

    def __str__(self) -> str:
        """Return the function's name."""
        return f"function {getattr(self.function, '__qualname__', repr(self.function))}"


def to_callback(function: Function, *, gone: Function | None = None) -> ToCallback:
    """Call `function(version, rows)` with the rows as an Arrow table, at least once and in order.

    If the function raises, the delivery fails and is retried with the same rows. `gone` is called afterwards with the
    rows that were deleted from the table; without it, deleted rows are an error.
    """
    return ToCallback(function, gone)


@dataclass
class CallbackTarget:
    """The functions to call, and the file with the version of the last call."""

    to: ToCallback
    file: Path

    def reached(self) -> SinkPosition | None:
        """Return the version in the file."""
        try:
            return SinkPosition.from_json(self.file.read_text())
        except FileNotFoundError:
            return None

    def write(self, delivery: Delivery) -> None:
        """Call the functions that have rows, then record the version."""
        if is_delivered(delivery, self.reached()):
            return
        if delivery.is_whole and delivery.since is not None:
            raise SinkError(
                "the changes of the table can no longer be determined, and this sink cannot be reloaded automatically",
                got=f"version {delivery.to.version} after {delivery.since.version}",
                do=f"to call the function with all rows, remove {self.file}",
            )
        if delivery.gone.num_rows and self.to.gone is None:
            raise SinkError(
                f"rows were deleted from the table, and {self.to} does not handle deletes",
                got=f"{quantity(delivery.gone.num_rows, 'row')} up to version {delivery.to.version}",
                do="pass a function for deleted rows: to_callback(…, gone=)",
            )
        self._call(self.to.function, delivery.to.version, delivery.rows.read_all())
        if self.to.gone is not None:
            self._call(self.to.gone, delivery.to.version, delivery.gone)
        self._note(delivery.to)

    def close(self) -> None:
        """Do nothing; no resources are open."""

    def _call(self, function: Function, version: int, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        try:
            function(version, rows)
        except USER_CODE_ERRORS as error:
            raise SinkError(
                f"{self.to} failed on version {version}",
                got=f"{type(error).__name__}: {error}",
                do="the delivery is retried",
            ) from error

    def _note(self, position: SinkPosition) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        written = self.file.with_suffix(".new")
        with written.open("w") as file:
            file.write(position.to_json())
            file.flush()
            os.fsync(file.fileno())
        written.replace(self.file)
