"""Headwater: definitions of sources, tables, dimensions, facts and marts, and what they are made of."""

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
