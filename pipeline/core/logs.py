"""Structured logs: one logger per package, with fields such as the run and the table.

    log = logger(__name__)                      # pipeline.lake.head -> headwater.lake
    log.warning("compaction failed, will be retried", error=str(error))

`fields(run=…, table=…)` adds fields to all messages of a context. This module does not configure logging: a program that
uses Headwater as a library configures it, and the `headwater` command prints messages (see `cluster.cli.logs`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

ROOT = "headwater"
_FIELDS: ContextVar[Mapping[str, Any] | None] = ContextVar("log_fields", default=None)


class Logger:
    """A logger whose messages have fields: `record.fields` of each `logging.LogRecord`."""

    def __init__(self, name: str) -> None:
        """Create a logger with this name; handlers and levels are those of `logging`."""
        self._logger = logging.getLogger(name)

    def debug(self, message: str, **values: Any) -> None:
        """Log details of a single step."""
        self._log(logging.DEBUG, message, values)

    def info(self, message: str, **values: Any) -> None:
        """Log an expected event."""
        self._log(logging.INFO, message, values)

    def warning(self, message: str, **values: Any) -> None:
        """Log a failure that was or will be recovered."""
        self._log(logging.WARNING, message, values)

    def error(self, message: str, **values: Any) -> None:
        """Log a failure that ended a run, a stream or a delivery."""
        self._log(logging.ERROR, message, values)

    def _log(self, level: int, message: str, values: Mapping[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, message, extra={"fields": {**(_FIELDS.get() or {}), **values}}, stacklevel=3)


def logger(module: str) -> Logger:
    """Return the logger of a module's package, which is the folder below the top-level package."""
    top, _, rest = module.partition(".")
    room = rest.partition(".")[0] if top == "pipeline" else top
    return Logger(f"{ROOT}.{room or top}")


@contextmanager
def fields(**values: Any) -> Iterator[None]:
    """Add fields to all messages that this thread logs inside the context."""
    token = _FIELDS.set({**(_FIELDS.get() or {}), **values})
    try:
        yield
    finally:
        _FIELDS.reset(token)
