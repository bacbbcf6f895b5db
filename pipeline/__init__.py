"""Headwater: definitions of sources, tables, dimensions, facts and marts, and what they are made of."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.core.definitions import Chart, source
    from pipeline.core.functions import table
    from pipeline.core.sinks import sink
    from pipeline.kernel.sql import sql
    from pipeline.kernel.windowed import hop, session, tumble, window
    from pipeline.quality import drop, fail, quarantine, warn
    from pipeline.sinks import to_callback, to_kafka, to_online
    from pipeline.sources import connector, files, generate, kafka, replay
    from pipeline.streams.deduplication import deduplicate
    from pipeline.streams.own import stateful
    from pipeline.streams.pattern import directly_followed_by, event, followed_by, not_followed_by, pattern
    from pipeline.warehouse import dimension, fact, lookup, mart

__all__ = [
    "Chart",
    "connector",
    "deduplicate",
    "dimension",
    "directly_followed_by",
    "drop",
    "event",
    "fact",
    "fail",
    "files",
    "followed_by",
    "generate",
    "hop",
    "kafka",
    "lookup",
    "mart",
    "not_followed_by",
    "pattern",
    "quarantine",
    "replay",
    "session",
    "sink",
    "source",
    "sql",
    "stateful",
    "table",
    "to_callback",
    "to_kafka",
    "to_online",
    "tumble",
    "warn",
    "window",
]

_MODULES = {
    "Chart": "pipeline.core.definitions",
    "connector": "pipeline.sources",
    "deduplicate": "pipeline.streams.deduplication",
    "dimension": "pipeline.warehouse",
    "directly_followed_by": "pipeline.streams.pattern",
    "drop": "pipeline.quality",
    "event": "pipeline.streams.pattern",
    "fact": "pipeline.warehouse",
    "fail": "pipeline.quality",
    "files": "pipeline.sources",
    "followed_by": "pipeline.streams.pattern",
    "generate": "pipeline.sources",
    "hop": "pipeline.kernel.windowed",
    "kafka": "pipeline.sources",
    "lookup": "pipeline.warehouse",
    "mart": "pipeline.warehouse",
    "not_followed_by": "pipeline.streams.pattern",
    "pattern": "pipeline.streams.pattern",
    "quarantine": "pipeline.quality",
    "replay": "pipeline.sources",
    "session": "pipeline.kernel.windowed",
    "sink": "pipeline.core.sinks",
    "source": "pipeline.core.definitions",
    "sql": "pipeline.kernel.sql",
    "stateful": "pipeline.streams.own",
    "table": "pipeline.core.functions",
    "to_callback": "pipeline.sinks",
    "to_kafka": "pipeline.sinks",
    "to_online": "pipeline.sinks",
    "tumble": "pipeline.kernel.windowed",
    "warn": "pipeline.quality",
    "window": "pipeline.kernel.windowed",
}
"""Where each name is defined. It is imported when it is first asked for: a project pays only for what it uses."""


def __getattr__(name: str) -> Any:
    """Import a name of the package from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the names of the package."""
    return sorted({*globals(), *__all__})
