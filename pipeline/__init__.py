"""Headwater: the public API for defining sources, tables, dimensions, facts, marts and sinks."""

from typing import TYPE_CHECKING

from pipeline.core.lazy import lazy

if TYPE_CHECKING:
    from pipeline.connectors import connector, files, generate, kafka, replay, to_callback, to_kafka, to_online
    from pipeline.core.definitions import Chart, source
    from pipeline.core.functions import table
    from pipeline.core.sinks import sink
    from pipeline.kernel.sql import sql
    from pipeline.kernel.window_definitions import hop, session, tumble, window
    from pipeline.quality import drop, fail, quarantine, warn
    from pipeline.streaming.operators.deduplication import deduplicate
    from pipeline.streaming.operators.pattern import directly_followed_by, event, followed_by, not_followed_by, pattern
    from pipeline.streaming.operators.stateful import stateful
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

__getattr__, __dir__ = lazy(
    __name__,
    {
        "pipeline.core.definitions": ("Chart", "source"),
        "pipeline.core.functions": ("table",),
        "pipeline.core.sinks": ("sink",),
        "pipeline.kernel.sql": ("sql",),
        "pipeline.kernel.window_definitions": ("hop", "session", "tumble", "window"),
        "pipeline.quality": ("drop", "fail", "quarantine", "warn"),
        "pipeline.connectors": (
            "connector",
            "files",
            "generate",
            "kafka",
            "replay",
            "to_callback",
            "to_kafka",
            "to_online",
        ),
        "pipeline.streaming.operators.deduplication": ("deduplicate",),
        "pipeline.streaming.operators.stateful": ("stateful",),
        "pipeline.streaming.operators.pattern": (
            "directly_followed_by",
            "event",
            "followed_by",
            "not_followed_by",
            "pattern",
        ),
        "pipeline.warehouse": ("dimension", "fact", "lookup", "mart"),
    },
)
