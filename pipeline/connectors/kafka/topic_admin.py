"""Topics on the brokers: what they are like, and how they are changed, with kafka-python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.connectors.kafka.administration import admin_client
from pipeline.connectors.kafka.quotas import EVERY, QuotaDefinition
from pipeline.connectors.kafka.topics import Change, ExistingTopic, TopicDefinition, replica_assignment
from pipeline.core.errors import SourceError
from pipeline.core.extras import imports_of

with imports_of("kafka", "a Kafka topic"):
    from kafka import KafkaAdminClient, TopicPartition
    from kafka.admin import (
        ACL,
        ACLFilter,
        ACLOperation,
        ACLPermissionType,
        ACLResourcePatternType,
        AlterConfigOp,
        ConfigResource,
        ConfigResourceType,
        NewPartitions,
        NewTopic,
        ResourcePattern,
        ResourcePatternFilter,
        ResourceType,
    )
    from kafka.errors import SecurityDisabledError
    from kafka.protocol.admin import AlterClientQuotasRequest, DescribeClientQuotasRequest
    from kafka.protocol.metadata import MetadataRequest

_ANY_HOST = "*"
_CREATE_MS = 30_000
_LOOKS_EVERY_S = 0.1
_EXACT, _DEFAULT = 0, 1


class TopicAdmin:
    """The topics of one cluster. Create it with `topic_admin`."""

    def __init__(self, client: KafkaAdminClient) -> None:
        """Keep a connected client."""
        self._client = client

    def existing(self, names: Sequence[str]) -> Mapping[str, ExistingTopic | None]:
        """Return the topics with these names as they are; `None` for one that does not exist."""
        known = sorted(set(names) & set(self._client.list_topics()))
        found: dict[str, ExistingTopic | None] = dict.fromkeys(names)
        if not known:
            return found
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in known]
        configs = self._client.describe_configs(resources, config_filter="all")["topic"]
        access = self._access()
        for described in self._client.describe_topics(known):
            name, partitions = described["name"], described["partitions"]
            values = {key: str(entry["value"]) for key, entry in configs[name].items()}
            replicas = min(len(partition["replica_nodes"]) for partition in partitions)
            allowed = frozenset((who, operation) for topic, who, operation in access if topic == name)
            found[name] = ExistingTopic(len(partitions), replicas, values, allowed)
        return found

    def _access(self) -> list[tuple[str, str, str]]:
        """Return the topics with the principals and the operations that each is allowed; none without an authorizer."""
        pattern = ResourcePatternFilter(ResourceType.TOPIC, None, ACLResourcePatternType.LITERAL)
        every = ACLFilter(None, _ANY_HOST, ACLOperation.ANY, ACLPermissionType.ALLOW, pattern)
        try:
            acls = self._client.describe_acls(every)
        except SecurityDisabledError:
            return []
        acls = acls[0] if isinstance(acls, tuple) else acls
        return [(acl.resource_pattern.resource_name, acl.principal, acl.operation.name) for acl in acls]

    def limits(self, wanted: QuotaDefinition) -> Mapping[str, float]:
        """Return the limits of a user or a client as they are."""
        components = [
            (kind, _DEFAULT, None) if name == EVERY else (kind, _EXACT, name) for kind, name in wanted.entity.items()
        ]
        answer = self._send(DescribeClientQuotasRequest(components=components, strict=True))
        _require_done(answer, wanted)
        return {str(each.key): float(each.value) for entry in answer.entries or () for each in entry.values}

    def set_limits(self, wanted: QuotaDefinition, changes: Iterable[Change]) -> None:
        """Set and remove limits of a user or a client at once; raise `SourceError` if the brokers refuse."""
        entity = [(kind, None if name == EVERY else name) for kind, name in wanted.entity.items()]
        pairs: list[Any] = [change.value for change in changes]
        operations = [(name, 0.0 if limit is None else limit, limit is None) for name, limit in pairs]
        if operations:
            answer = self._send(AlterClientQuotasRequest(entries=[(entity, operations)], validate_only=False))
            for entry in answer.entries:
                _require_done(entry, wanted)

    def _send(self, request: Any, broker: int | None = None) -> Any:
        """Send a request for which the client has no function, to any broker or a certain one."""
        manager = self._client._manager  # noqa: SLF001 - as the functions of the client do

        async def send() -> Any:
            return await manager.send(request, node_id=broker)

        return manager.run(send)

    def apply(self, wanted: TopicDefinition, changes: Iterable[Change]) -> None:
        """Make changes of a topic, one after the other; raise `SourceError` if the brokers refuse one."""
        steps: Mapping[str, Callable[[TopicDefinition, Change], None]] = {
            "create": self._create,
            "partitions": self._add_partitions,
            "replicas": self._change_replicas,
            "config": self._set_config,
            "allow": self._allow,
            "remove access": self._remove_access,
        }
        for change in changes:
            if change.kind in steps:
                steps[change.kind](wanted, change)

    def _create(self, wanted: TopicDefinition, change: Change) -> None:

        del change
        new = NewTopic(wanted.name, wanted.partitions, wanted.replicas, topic_configs=dict(wanted.configs))
        self._client.create_topics([new], timeout_ms=_CREATE_MS)
        self._wait_for_partitions(wanted)

    def _add_partitions(self, wanted: TopicDefinition, change: Change) -> None:

        del change
        self._client.create_partitions({wanted.name: NewPartitions(wanted.partitions)})
        self._wait_for_partitions(wanted)

    def _change_replicas(self, wanted: TopicDefinition, change: Change) -> None:

        del change
        brokers = self._brokers()
        if len(brokers) < wanted.replicas:
            raise SourceError(
                f"topic {wanted.name!r} cannot have {wanted.replicas} replicas",
                got=f"{len(brokers)} brokers",
                do="declare fewer replicas, or add brokers",
                place=wanted.place,
            )
        [described] = self._client.describe_topics([wanted.name])
        assignment = {
            TopicPartition(wanted.name, partition["partition_index"]): replica_assignment(
                partition["replica_nodes"], wanted.replicas, brokers, partition["partition_index"]
            )
            for partition in described["partitions"]
        }
        refused = {
            each: error for each, error in self._client.alter_partition_reassignments(assignment).items() if error
        }
        if refused:
            each, error = next(iter(refused.items()))
            raise SourceError(f"the replicas of {each.topic} cannot be moved", got=error.__name__, place=wanted.place)

    def _wait_for_partitions(self, wanted: TopicDefinition) -> None:
        """Wait until all brokers know the partitions that were just added, which they learn one after the other."""
        until = time.monotonic() + _CREATE_MS / 1000
        while (known := min(self._known_partitions(wanted.name))) < wanted.partitions:
            if time.monotonic() > until:
                raise SourceError(
                    f"some brokers do not know the new partitions of topic {wanted.name!r}",
                    got=f"{known} of {wanted.partitions}",
                    do="apply the change again",
                    place=wanted.place,
                )
            time.sleep(_LOOKS_EVERY_S)

    def _known_partitions(self, name: str) -> Iterator[int]:
        """Yield how many partitions of a topic, with their leaders, each broker knows."""
        request = MetadataRequest(
            topics=[MetadataRequest.MetadataRequestTopic(name=name)], allow_auto_topic_creation=False
        )
        for broker in self._brokers():
            [topic] = self._send(request, broker).topics
            yield sum(partition.leader_id >= 0 for partition in topic.partitions)

    def _brokers(self) -> list[int]:
        return sorted(
            node["broker_id"] for node in self._client.describe_cluster()["brokers"] if not node.get("is_fenced")
        )

    def _set_config(self, wanted: TopicDefinition, change: Change) -> None:

        name, value = _pair(change)
        resource = ConfigResource(ConfigResourceType.TOPIC, wanted.name, {name: (AlterConfigOp.SET, value)})
        self._client.alter_configs([resource], incremental=True)

    def _allow(self, wanted: TopicDefinition, change: Change) -> None:

        try:
            self._client.create_acls([_acl(wanted, change)])
        except SecurityDisabledError as error:
            raise SourceError(
                "the Kafka brokers have no authorizer, so that acls= has no effect",
                do="set authorizer.class.name on the brokers, or leave out acls=",
                place=wanted.place,
            ) from error

    def _remove_access(self, wanted: TopicDefinition, change: Change) -> None:
        self._client.delete_acls([_acl(wanted, change)])


def _require_done(answer: Any, wanted: QuotaDefinition) -> None:
    if answer.error_code:
        got = f"{answer.error_message or 'error'} ({answer.error_code})"
        do = "check the values, and the permission of the user to alter the configuration of the cluster"
        raise SourceError(f"the brokers refuse the {wanted.name}", got=got, do=do, place=wanted.place)


def _pair(change: Change) -> tuple[str, str]:
    assert isinstance(change.value, tuple)  # noqa: S101 - by its kind
    name, value = change.value
    return str(name), str(value)


def _acl(wanted: TopicDefinition, change: Change) -> Any:

    who, operation = _pair(change)
    pattern = ResourcePattern(ResourceType.TOPIC, wanted.name)
    return ACL(who, _ANY_HOST, ACLOperation[operation], ACLPermissionType.ALLOW, pattern)


@contextmanager
def topic_admin(wanted: TopicDefinition | QuotaDefinition, servers: str) -> Iterator[TopicAdmin]:
    """Connect to the brokers of a topic; raise `SourceError` if none answers, or if they refuse a request."""
    security = {} if wanted.security is None else wanted.security.options()
    with admin_client({"bootstrap.servers": servers, **security}, wanted.place) as client:
        yield TopicAdmin(client)
