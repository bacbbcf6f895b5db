"""Headwater: the public API for defining sources, tables, dimensions, facts, marts and sinks."""

from typing import TYPE_CHECKING

from pipeline.core.lazy import lazy

if TYPE_CHECKING:
    from ml.session import connect
    from pipeline.connectors.callback import to_callback
    from pipeline.connectors.databases.adbc import adbc
    from pipeline.connectors.databases.duckdb_file import duckdb_file
    from pipeline.connectors.databases.mongodb import mongodb
    from pipeline.connectors.databases.mysql import mysql
    from pipeline.connectors.databases.mysql_changes import mysql_changes
    from pipeline.connectors.databases.postgres import postgres
    from pipeline.connectors.databases.postgres_changes import postgres_changes
    from pipeline.connectors.databases.sql_database import sql_database
    from pipeline.connectors.databases.sqlite import sqlite
    from pipeline.connectors.databases.warehouses import bigquery, oracle, snowflake_table, sqlserver
    from pipeline.connectors.dlt_resource import dlt_resource
    from pipeline.connectors.files import files
    from pipeline.connectors.generator import generate
    from pipeline.connectors.graphql import graphql
    from pipeline.connectors.kafka import kafka, to_kafka
    from pipeline.connectors.kafka.event_hubs import event_hubs
    from pipeline.connectors.kafka.quotas import quota
    from pipeline.connectors.kafka.topics import topic
    from pipeline.connectors.odata.source import odata
    from pipeline.connectors.online_store import to_online
    from pipeline.connectors.queues.kinesis import kinesis
    from pipeline.connectors.queues.mqtt import mqtt
    from pipeline.connectors.queues.pubsub import pubsub
    from pipeline.connectors.queues.rabbitmq_queue import rabbitmq_queue
    from pipeline.connectors.registry import connector
    from pipeline.connectors.replay import replay
    from pipeline.connectors.rest.source import rest
    from pipeline.connectors.sse.source import server_sent_events
    from pipeline.connectors.streams.nats import nats_stream
    from pipeline.connectors.streams.rabbitmq import rabbitmq_stream
    from pipeline.connectors.streams.redis import redis_stream
    from pipeline.connectors.tables.delta import delta_table
    from pipeline.connectors.tables.iceberg import iceberg_table
    from pipeline.connectors.tables.iceberg_sink import to_iceberg
    from pipeline.connectors.tables.sharing import delta_sharing
    from pipeline.connectors.taps.source import airbyte_messages, singer
    from pipeline.connectors.webhook.source import webhook
    from pipeline.core.definitions import Chart
    from pipeline.core.functions import table
    from pipeline.core.lake_policy import lake_policy
    from pipeline.core.sinks import sink
    from pipeline.core.snowflake_account import (
        snowflake_masking_policy,
        snowflake_options,
        snowflake_resource_monitor,
        snowflake_role,
        snowflake_row_access_policy,
        snowflake_warehouse,
    )
    from pipeline.core.source_declaration import source
    from pipeline.governance.access_policies import access_policy
    from pipeline.kernel.sql import sql
    from pipeline.kernel.window_definitions import hop, session, tumble, window
    from pipeline.quality import drop, fail, quarantine, warn
    from pipeline.streaming.operators.deduplication import deduplicate
    from pipeline.streaming.operators.pattern import directly_followed_by, event, followed_by, not_followed_by, pattern
    from pipeline.streaming.operators.stateful import stateful
    from pipeline.warehouse.modelling.bridges import bridge, parent_child_bridge
    from pipeline.warehouse.modelling.calendar import date_dimension, time_dimension
    from pipeline.warehouse.modelling.dimension import dimension, junk_dimension
    from pipeline.warehouse.modelling.facts import fact
    from pipeline.warehouse.modelling.lookups import lookup
    from pipeline.warehouse.modelling.marts import mart
    from pipeline.warehouse.modelling.metrics import metric
    from pipeline.warehouse.modelling.snapshots import accumulating_snapshot, periodic_snapshot

__all__ = [
    "Chart",
    "access_policy",
    "accumulating_snapshot",
    "adbc",
    "airbyte_messages",
    "bigquery",
    "bridge",
    "connect",
    "connector",
    "date_dimension",
    "deduplicate",
    "delta_sharing",
    "delta_table",
    "dimension",
    "directly_followed_by",
    "dlt_resource",
    "drop",
    "duckdb_file",
    "event",
    "event_hubs",
    "fact",
    "fail",
    "files",
    "followed_by",
    "generate",
    "graphql",
    "hop",
    "iceberg_table",
    "junk_dimension",
    "kafka",
    "kinesis",
    "lake_policy",
    "lookup",
    "mart",
    "metric",
    "mongodb",
    "mqtt",
    "mysql",
    "mysql_changes",
    "nats_stream",
    "not_followed_by",
    "odata",
    "oracle",
    "parent_child_bridge",
    "pattern",
    "periodic_snapshot",
    "postgres",
    "postgres_changes",
    "pubsub",
    "quarantine",
    "quota",
    "rabbitmq_queue",
    "rabbitmq_stream",
    "redis_stream",
    "replay",
    "rest",
    "server_sent_events",
    "session",
    "singer",
    "sink",
    "snowflake_masking_policy",
    "snowflake_options",
    "snowflake_resource_monitor",
    "snowflake_role",
    "snowflake_row_access_policy",
    "snowflake_table",
    "snowflake_warehouse",
    "source",
    "sql",
    "sql_database",
    "sqlite",
    "sqlserver",
    "stateful",
    "table",
    "time_dimension",
    "to_callback",
    "to_iceberg",
    "to_kafka",
    "to_online",
    "topic",
    "tumble",
    "warn",
    "webhook",
    "window",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ml.session": ("connect",),
        "pipeline.core.definitions": ("Chart",),
        "pipeline.core.source_declaration": ("source",),
        "pipeline.core.functions": ("table",),
        "pipeline.core.lake_policy": ("lake_policy",),
        "pipeline.core.snowflake_account": (
            "snowflake_masking_policy",
            "snowflake_options",
            "snowflake_resource_monitor",
            "snowflake_role",
            "snowflake_row_access_policy",
            "snowflake_warehouse",
        ),
        "pipeline.core.sinks": ("sink",),
        "pipeline.governance.access_policies": ("access_policy",),
        "pipeline.kernel.sql": ("sql",),
        "pipeline.kernel.window_definitions": ("hop", "session", "tumble", "window"),
        "pipeline.quality": ("drop", "fail", "quarantine", "warn"),
        "pipeline.connectors.callback": ("to_callback",),
        "pipeline.connectors.databases.adbc": ("adbc",),
        "pipeline.connectors.databases.duckdb_file": ("duckdb_file",),
        "pipeline.connectors.databases.mongodb": ("mongodb",),
        "pipeline.connectors.databases.mysql": ("mysql",),
        "pipeline.connectors.databases.mysql_changes": ("mysql_changes",),
        "pipeline.connectors.databases.postgres": ("postgres",),
        "pipeline.connectors.databases.postgres_changes": ("postgres_changes",),
        "pipeline.connectors.databases.sql_database": ("sql_database",),
        "pipeline.connectors.databases.sqlite": ("sqlite",),
        "pipeline.connectors.databases.warehouses": ("bigquery", "oracle", "snowflake_table", "sqlserver"),
        "pipeline.connectors.dlt_resource": ("dlt_resource",),
        "pipeline.connectors.files": ("files",),
        "pipeline.connectors.generator": ("generate",),
        "pipeline.connectors.graphql": ("graphql",),
        "pipeline.connectors.kafka": ("kafka", "to_kafka"),
        "pipeline.connectors.kafka.quotas": ("quota",),
        "pipeline.connectors.kafka.topics": ("topic",),
        "pipeline.connectors.odata.source": ("odata",),
        "pipeline.connectors.online_store": ("to_online",),
        "pipeline.connectors.registry": ("connector",),
        "pipeline.connectors.replay": ("replay",),
        "pipeline.connectors.queues.kinesis": ("kinesis",),
        "pipeline.connectors.queues.mqtt": ("mqtt",),
        "pipeline.connectors.queues.pubsub": ("pubsub",),
        "pipeline.connectors.queues.rabbitmq_queue": ("rabbitmq_queue",),
        "pipeline.connectors.kafka.event_hubs": ("event_hubs",),
        "pipeline.connectors.rest.source": ("rest",),
        "pipeline.connectors.sse.source": ("server_sent_events",),
        "pipeline.connectors.streams.nats": ("nats_stream",),
        "pipeline.connectors.tables.delta": ("delta_table",),
        "pipeline.connectors.streams.rabbitmq": ("rabbitmq_stream",),
        "pipeline.connectors.streams.redis": ("redis_stream",),
        "pipeline.connectors.tables.iceberg": ("iceberg_table",),
        "pipeline.connectors.tables.iceberg_sink": ("to_iceberg",),
        "pipeline.connectors.tables.sharing": ("delta_sharing",),
        "pipeline.connectors.taps.source": ("airbyte_messages", "singer"),
        "pipeline.connectors.webhook.source": ("webhook",),
        "pipeline.streaming.operators.deduplication": ("deduplicate",),
        "pipeline.streaming.operators.stateful": ("stateful",),
        "pipeline.streaming.operators.pattern": (
            "directly_followed_by",
            "event",
            "followed_by",
            "not_followed_by",
            "pattern",
        ),
        "pipeline.warehouse.modelling.bridges": ("bridge", "parent_child_bridge"),
        "pipeline.warehouse.modelling.calendar": ("date_dimension", "time_dimension"),
        "pipeline.warehouse.modelling.dimension": ("dimension", "junk_dimension"),
        "pipeline.warehouse.modelling.facts": ("fact",),
        "pipeline.warehouse.modelling.lookups": ("lookup",),
        "pipeline.warehouse.modelling.marts": ("mart",),
        "pipeline.warehouse.modelling.metrics": ("metric",),
        "pipeline.warehouse.modelling.snapshots": ("accumulating_snapshot", "periodic_snapshot"),
    },
)
