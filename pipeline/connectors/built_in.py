"""The built-in connectors, as `headwater sources` and docs/connectors/README.md list them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BuiltIn:
    """A built-in connector."""

    name: str
    """The function that creates it, of the package `pipeline`."""
    reads: str
    """The systems and formats that it reads."""
    delivery: str
    """Its delivery guarantee, in a few words."""
    tested_against: str
    """The real servers, with versions, against which the tests run; empty if none could be had."""
    extras: tuple[str, ...] = ()
    """The extras of the package that it needs; some only for a part of what it reads."""
    page: str = ""
    """Its page, below docs/connectors/."""
    is_discoverable: bool = False
    """Whether discovery finds what it reads. To look at a queue, for example, would take its messages."""


BUILT_IN = (
    BuiltIn(
        "files",
        "CSV, JSON, Parquet, Avro, ORC, Excel, XML, fixed width; plain, gzip, zstd, zip, tar; local, S3, GCS, Azure, SFTP, FTP, HTTP",
        "each file once",
        "local folders, SeaweedFS 4.48 (S3), fake-gcs-server 1.56 (GCS), Azurite 3.35, asyncssh 2.24 (SFTP), pyftpdlib 2.2 (FTP, FTPS), HTTP with and without ranges",
        ("files", "s3", "gcs", "azure", "sftp", "http"),
        "files.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "kafka",
        "topics of Apache Kafka: JSON, Avro, Protobuf, text or bytes",
        "each record once",
        "Apache Kafka 4.4",
        ("kafka", "avro", "protobuf"),
        "../kafka.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "rest",
        "REST APIs that return JSON, with seven styles of pagination",
        "each returned row once",
        "an HTTP server of faults",
        ("rest",),
        "rest.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "postgres",
        "tables of PostgreSQL: full, by transaction, or by a cursor column",
        "each row version once",
        "PostgreSQL 15.18",
        ("postgres",),
        "postgres.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "postgres_changes",
        "changes of PostgreSQL tables by logical replication, with a snapshot first",
        "each change once",
        "PostgreSQL 15.18",
        ("postgres",),
        "postgres-changes.md",
    ),
    BuiltIn(
        "graphql",
        "queries of GraphQL APIs",
        "each returned row once",
        "graphql-core 3.2",
        ("rest",),
        "graphql.md",
    ),
    BuiltIn(
        "odata",
        "entity sets of OData 4 services, in full, since a value, or by delta links",
        "each entity or change once",
        "a service of the test suite",
        ("rest",),
        "odata.md",
    ),
    BuiltIn(
        "mysql",
        "tables, views and queries of MySQL and MariaDB: full, or by a cursor column",
        "each cursor value once",
        "MySQL 9.7, MariaDB 10.11",
        ("mysql",),
        "mysql.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "mysql_changes",
        "changes of MySQL and MariaDB tables from the binary log, with a snapshot first",
        "each change once",
        "MySQL 9.7, MariaDB 10.11",
        ("mysql",),
        "mysql-changes.md",
    ),
    BuiltIn(
        "mongodb",
        "collections of MongoDB: full, or by a cursor field",
        "each cursor value once",
        "FerretDB 1.24",
        ("mongodb",),
        "mongodb.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "sqlite",
        "tables, views and queries of SQLite files: full, or by a cursor column",
        "each cursor value once",
        "SQLite 3",
        ("sqlite",),
        "database-files.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "duckdb_file",
        "tables, views and queries of DuckDB files: full, or by a cursor column",
        "each cursor value once",
        "DuckDB 2.0",
        page="database-files.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "delta_table",
        "Delta tables of other engines: a version, appended rows, or the change data feed",
        "each appended row or each change once",
        "tables of delta-rs 1.6, local and on SeaweedFS 4.48 (S3), and of Delta 4.4 on Spark 4.2",
        ("s3",),
        "delta.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "iceberg_table",
        "Iceberg tables: a snapshot, and appended rows",
        "each appended row once",
        "tables of pyiceberg 0.12 in SQLite's catalog, in the REST catalog of SeaweedFS 4.48 (S3), and of Iceberg 1.12 on Spark 4.1",
        ("iceberg",),
        "iceberg.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "delta_sharing",
        "tables that are shared by Delta Sharing: a version, appended rows, or the change data feed",
        "each appended row or each change once",
        "a server of the test suite",
        ("rest",),
        "delta-sharing.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "webhook",
        "messages that other systems post to `headwater serve`",
        "each acknowledged message once",
        "no server is needed",
        ("serve",),
        "webhook.md",
    ),
    BuiltIn(
        "sql_database",
        "any database with a dialect of SQLAlchemy",
        "each cursor value once",
        "PostgreSQL 15.18, MariaDB 10.11, SQLite 3",
        (),
        "sql-database.md",
    ),
    BuiltIn(
        "adbc",
        "any database with an ADBC driver",
        "each cursor value once",
        "PostgreSQL 15.18",
        (),
        "sql-database.md",
    ),
    BuiltIn(
        "snowflake_table",
        "tables and queries of Snowflake: full, or by a cursor column",
        "each cursor value once",
        "fakesnow 0.12, a double of its protocol",
        ("snowflake",),
        "sql-database.md",
    ),
    BuiltIn(
        "bigquery",
        "tables and queries of BigQuery: full, or by a cursor column",
        "each cursor value once",
        "",
        ("bigquery",),
        "sql-database.md",
    ),
    BuiltIn(
        "sqlserver",
        "tables and queries of SQL Server: full, or by a cursor column",
        "each cursor value once",
        "",
        ("sqlserver",),
        "sql-database.md",
    ),
    BuiltIn(
        "oracle",
        "tables and queries of Oracle: full, or by a cursor column",
        "each cursor value once",
        "",
        ("oracle",),
        "sql-database.md",
    ),
    BuiltIn(
        "nats_stream",
        "streams of NATS JetStream: JSON, Avro, Protobuf, text or bytes",
        "each message once",
        "NATS 2.15",
        ("nats",),
        "nats.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "redis_stream",
        "streams of Redis and Valkey: fields as columns, or one field with JSON, Avro, Protobuf, text or bytes",
        "each entry once",
        "Valkey 9.1",
        ("redis",),
        "redis.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "rabbitmq_stream",
        "streams of RabbitMQ: JSON, Avro, Protobuf, text or bytes",
        "each message once",
        "RabbitMQ 3.10",
        page="rabbitmq.md",
        is_discoverable=True,
    ),
    BuiltIn(
        "event_hubs",
        "Azure Event Hubs, with the settings of its Kafka endpoint",
        "each event once",
        "",
        ("kafka",),
        "event-hubs.md",
    ),
    BuiltIn(
        "mqtt",
        "topics of MQTT brokers",
        "each message at least once",
        "Mosquitto 2.0, NATS 2.15",
        ("mqtt",),
        "mqtt.md",
    ),
    BuiltIn(
        "rabbitmq_queue",
        "classic and quorum queues of RabbitMQ",
        "each message at least once; once with an id",
        "RabbitMQ 3.10",
        ("rabbitmq",),
        "rabbitmq.md",
    ),
    BuiltIn(
        "kinesis",
        "data streams of Amazon Kinesis",
        "each record once",
        "moto 5.2",
        ("kinesis",),
        "kinesis.md",
    ),
    BuiltIn(
        "pubsub",
        "subscriptions of Google Cloud Pub/Sub",
        "each message once, by its id",
        "Google's fake of Pub/Sub (pstest 2.9)",
        ("pubsub",),
        "pubsub.md",
    ),
    BuiltIn("generate", "rows that are generated from a seed", "each row once", "no server is needed"),
    BuiltIn("replay", "tables of the lake as a stream", "each row once", "no server is needed"),
    BuiltIn(
        "server_sent_events",
        "streams of server-sent events",
        "each received event once",
        "an HTTP server of the test suite",
        ("rest",),
        "server-sent-events.md",
    ),
    BuiltIn(
        "singer",
        "streams of Singer taps",
        "each record before a state once",
        "tap-jsonl 0.3",
        ("rest",),
        "taps.md",
    ),
    BuiltIn(
        "airbyte_messages",
        "streams of Airbyte connectors",
        "each record before a state once",
        "airbyte-source-faker 7.2",
        ("rest",),
        "taps.md",
    ),
    BuiltIn("dlt_resource", "resources of dlt", "each yielded item once", "dlt 1.31", ("dlt",), "dlt.md"),
)
"""All built-in connectors, in the order of the documentation."""
