"""Administration of topics with kafka-python: creates them, and checks for problems of streams that read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import Place, SourceError, SourceUnavailableError, quantity
from pipeline.core.extras import imports_of
from pipeline.core.findings import Finding, FindingState

if TYPE_CHECKING:
    from kafka import KafkaAdminClient

    from pipeline.connectors.kafka.source import Kafka

_CLIENT_OPTIONS = {
    "bootstrap.servers": "bootstrap_servers",
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
}
"""Names of the client settings in librdkafka, and in kafka-python."""
_SHORT_RETENTION_S = 86_400
_PATIENCE_MS = 5_000


@dataclass(frozen=True)
class TopicSettings:
    """The configuration of a topic on the brokers."""

    name: str
    partitions: int
    replicas: int
    """The minimum over the partitions."""
    in_sync: int
    """The minimum number of in-sync replicas over the partitions."""
    retention_s: float | None
    """How long a record is retained; None: forever."""
    compacted: bool
    """Whether the topic is compacted."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Possible problems for streams that read the topic."""
        warnings = []
        if self.retention_s is not None and self.retention_s < _SHORT_RETENTION_S:
            warnings.append(
                f"retention is {self.retention_s / 3600:g} h: a stream that is stopped for longer fails, because records are deleted"
            )
        if self.replicas < 2:  # noqa: PLR2004 - one replica means no redundancy
            warnings.append("one replica: if its broker loses its disk, records are lost")
        if self.in_sync < self.replicas:
            warnings.append(f"{self.in_sync} of {self.replicas} replicas in sync")
        if self.compacted:
            warnings.append("compacted: records are removed, so a batch result can differ from that of the stream")
        return tuple(warnings)


def topics(kafka: Kafka) -> tuple[TopicSettings, ...]:
    """Return the settings of the topics that a source reads, from the brokers; raise `SourceError` if none answers."""
    from kafka.admin import ConfigResource, ConfigResourceType  # noqa: PLC0415 - optional dependency

    names = sorted({partition.rpartition("/")[0].removeprefix("kafka://") for partition in kafka.extents()})
    with _admin(kafka) as admin:
        described = admin.describe_topics(names)
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        settings = admin.describe_configs(resources, config_filter="all")["topic"]
    return tuple(_topic(topic, settings[topic["name"]]) for topic in described)


def check(kafka: Kafka) -> Iterator[Finding]:
    """Yield the findings of `Kafka.check`; raise `SourceError` if no broker answers."""
    for topic in topics(kafka):
        partitions = quantity(topic.partitions, "partition")
        state = FindingState.NOTE if topic.warnings else FindingState.OK
        yield Finding(f"topic {topic.name}", state, "; ".join([partitions, *topic.warnings]))
    for uri, offsets in kafka.held_back().items():
        if offsets:
            yield Finding(uri, FindingState.NOTE, f"{offsets:,} offsets wait for an open transaction to end")
    for transaction in hanging_transactions(kafka):
        yield Finding("transaction", FindingState.BAD, f"does not end: {transaction}")


def create(kafka: Kafka, *, partitions: int = 4, replicas: int = 1) -> tuple[str, ...]:
    """Create the missing topics of a source and return their names; raise `SourceError` if the brokers reject it."""
    from kafka.admin import NewTopic  # noqa: PLC0415 - optional dependency

    with _admin(kafka) as admin:
        there = set(admin.list_topics())
        missing = [name for name in kafka.topics if name not in there]
        if missing:
            admin.create_topics([NewTopic(name, partitions, replicas) for name in missing], wait_for_metadata=True)
    return tuple(missing)


def hanging_transactions(kafka: Kafka) -> tuple[str, ...]:
    """Describe the transactions that block readers for too long; an operator must abort them."""
    with _admin(kafka) as admin:
        return tuple(
            f"{transaction['transactional_id']} for {transaction['age_ms'] / 1000:.0f} s on {transaction['topic_partitions']}"
            for transaction in admin.find_hanging_transactions()
        )


def _topic(described: Mapping[str, Any], settings: Mapping[str, Mapping[str, str]]) -> TopicSettings:
    partitions = described["partitions"]
    retention_ms = int(settings["retention.ms"]["value"])
    policy = settings["cleanup.policy"]["value"]
    return TopicSettings(
        name=described["name"],
        partitions=len(partitions),
        replicas=min(len(p["replica_nodes"]) for p in partitions),
        in_sync=min(len(p["isr_nodes"]) for p in partitions),
        retention_s=None if retention_ms < 0 or "delete" not in policy else retention_ms / 1000,
        compacted="compact" in policy,
    )


@contextmanager
def _admin(kafka: Kafka) -> Iterator[KafkaAdminClient]:
    with admin_client(kafka.options(), kafka.place) as client:
        yield client


@contextmanager
def admin_client(options: Mapping[str, Any], place: Place) -> Iterator[KafkaAdminClient]:
    """Connect a client with options by their names in librdkafka.

    Raises `SourceError` if a request fails, and `SourceUnavailableError` if no broker answers.
    """
    with imports_of("kafka", "a Kafka topic"):
        from kafka import KafkaAdminClient  # noqa: PLC0415 - optional dependency
        from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError  # noqa: PLC0415 - optional dependency

        from pipeline.connectors.kafka.rejections import probe  # noqa: PLC0415 - needs the other client
    rejection = probe(options) if "security.protocol" in options else None
    if rejection is not None:
        raise rejection.error(place)  # the other client does not say why it is not accepted
    try:
        own = {_CLIENT_OPTIONS[name]: value for name, value in options.items() if name in _CLIENT_OPTIONS}
        client = KafkaAdminClient(**own, bootstrap_timeout_ms=_PATIENCE_MS, request_timeout_ms=_PATIENCE_MS)
        try:
            yield client
        finally:
            client.close()
    except (KafkaConnectionError, KafkaTimeoutError, OSError) as error:
        do = "check servers=, or wait until Kafka is available"
        raise SourceUnavailableError("Kafka does not answer", got=str(error), do=do, place=place) from error
    except KafkaError as error:
        raise SourceError(
            "the Kafka brokers rejected the request",
            got=str(error),
            do="check servers=, security= and permissions",
            place=place,
        ) from error
