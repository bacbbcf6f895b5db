"""Logs: one logger for each room of the tree, with fields, and with the run and the table in every line.

    log = logger(__name__)                      # pipeline.lake.head -> headwater.lake
    log.warning("compaction failed, it is tried again later", error=str(error))

`fields(run=…, table=…)` adds fields to all lines of a context. Nothing is configured here: a program that uses Headwater
as a library decides what becomes of the lines; the `headwater` command prints them (see `cluster.cli.logs`).
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
    """A logger whose lines have fields: `record.fields` of each `logging.LogRecord`."""

    def __init__(self, name: str) -> None:
        """Keep the name; handlers and levels are those of `logging`."""
        self._logger = logging.getLogger(name)

    def debug(self, message: str, **values: Any) -> None:
        """Log what helps to follow one step."""
        self._log(logging.DEBUG, message, values)

    def info(self, message: str, **values: Any) -> None:
        """Log what happened as it should."""
        self._log(logging.INFO, message, values)

    def warning(self, message: str, **values: Any) -> None:
        """Log what went wrong and was made good, or will be."""
        self._log(logging.WARNING, message, values)

    def error(self, message: str, **values: Any) -> None:
        """Log what ended a run, a stream or a delivery."""
        self._log(logging.ERROR, message, values)

    def _log(self, level: int, message: str, values: Mapping[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, message, extra={"fields": {**(_FIELDS.get() or {}), **values}}, stacklevel=3)


def logger(module: str) -> Logger:
    """Return the logger of a module's room: the folder below its top-level package."""
    top, _, rest = module.partition(".")
    room = rest.partition(".")[0] if top == "pipeline" else top
    return Logger(f"{ROOT}.{room or top}")


@contextmanager
def fields(**values: Any) -> Iterator[None]:
    """Add fields to all lines that this thread logs inside the context."""
    token = _FIELDS.set({**(_FIELDS.get() or {}), **values})
    try:
        yield
    finally:
        _FIELDS.reset(token)
