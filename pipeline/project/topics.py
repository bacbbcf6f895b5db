"""The topics of a project: what has to change on the brokers and in the schema registry, and making the changes."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.connectors.kafka.quotas import QuotaDefinition, quota_changes
from pipeline.connectors.kafka.source import SERVERS
from pipeline.connectors.kafka.topics import Change, TopicDefinition, changes
from pipeline.core.errors import DefinitionError, SettingsError
from pipeline.project.workspace import Workspace
from pipeline.schema_registry.registry import SchemaRegistry
from pipeline.schema_registry.schemas import SUFFIXES, SchemaText

_SHOWN_WITHIN_S, _LOOKS_EVERY_S = 10.0, 0.2


@dataclass(frozen=True)
class TopicPlan:
    """The changes of one topic or quota, in the order in which they are made."""

    topic: TopicDefinition | QuotaDefinition
    changes: tuple[Change, ...]

    @property
    def is_destructive(self) -> bool:
        """Whether records may be deleted."""
        return any(change.is_destructive for change in self.changes)


def plan_topics(workspace: Workspace) -> tuple[TopicPlan, ...]:
    """Compare the declared topics with the brokers and the schema registry; nothing is changed.

    Raises `DefinitionError` for a change that is not possible, and `SourceError` if the brokers do not answer.
    """
    from pipeline.connectors.kafka.topic_admin import topic_admin  # noqa: PLC0415 - needs Kafka's client

    plans: list[TopicPlan] = []
    for servers, declared in _by_cluster([*workspace.project.topics, *workspace.project.quotas]):
        topics = [each for each in declared if isinstance(each, TopicDefinition)]
        quotas = [each for each in declared if isinstance(each, QuotaDefinition)]
        with topic_admin(declared[0], servers) as admin:
            existing = admin.existing([topic.name for topic in topics])
            limits = [admin.limits(quota) for quota in quotas]
        plans += [
            TopicPlan(topic, (*changes(topic, existing[topic.name]), *_schema_changes(workspace, topic)))
            for topic in topics
        ]
        plans += [
            TopicPlan(quota, tuple(quota_changes(quota, before))) for quota, before in zip(quotas, limits, strict=True)
        ]
    return tuple(plans)


def apply_topics(workspace: Workspace, plans: Sequence[TopicPlan]) -> None:
    """Make the planned changes; each is complete or not made. Raises the same errors as `plan_topics`.

    Brokers apply accepted changes a moment later; this returns when all show them, or after some seconds. Replicas that
    are moved are not waited for.
    """
    from pipeline.connectors.kafka.topic_admin import topic_admin  # noqa: PLC0415 - needs Kafka's client

    planned = {(plan.topic.name, plan.topic.servers): plan.changes for plan in plans}
    for servers, topics in _by_cluster([plan.topic for plan in plans]):
        with topic_admin(topics[0], servers) as admin:
            for topic in topics:
                own = planned[topic.name, topic.servers]
                if isinstance(topic, QuotaDefinition):
                    admin.set_limits(topic, own)
                    continue
                admin.apply(topic, own)
                for change in own:
                    if change.kind == "schema":
                        SchemaRegistry(workspace.catalog).register(f"{topic.name}-value", _schema(workspace, topic))
    changed = {plan.topic.name for plan in plans if plan.changes}
    until = time.monotonic() + _SHOWN_WITHIN_S
    while changed and _is_behind(workspace, changed) and time.monotonic() < until:
        time.sleep(_LOOKS_EVERY_S)


def _is_behind(workspace: Workspace, names: Collection[str]) -> bool:
    """Return whether the brokers do not show some of the declared topics and quotas yet."""
    plans = (plan for plan in plan_topics(workspace) if plan.topic.name in names)
    return any(change.kind != "replicas" for plan in plans for change in plan.changes)


def _by_cluster(
    topics: Sequence[TopicDefinition | QuotaDefinition],
) -> Iterator[tuple[str, list[TopicDefinition | QuotaDefinition]]]:
    """Yield the topics and the quotas of each cluster, with the addresses of its brokers."""

    def cluster(topic: TopicDefinition | QuotaDefinition) -> str:
        servers = topic.servers or os.environ.get(SERVERS)
        if not servers:
            raise SettingsError(f"the brokers of {topic.title} are unknown", do=f"pass servers=, or set {SERVERS}")
        return servers

    for key, group in groupby(
        sorted(topics, key=lambda each: (cluster(each), repr(each.security))),
        key=lambda each: (cluster(each), each.security),
    ):
        yield key[0], list(group)


def _schema_changes(workspace: Workspace, topic: TopicDefinition) -> Iterator[Change]:
    if topic.schema is None:
        return
    registry, subject, schema = SchemaRegistry(workspace.catalog), f"{topic.name}-value", _schema(workspace, topic)
    problems = registry.problems(subject, schema)
    if problems:
        raise DefinitionError(
            f"the schema of topic {topic.name!r} is not compatible with its earlier versions",
            got=problems[0],
            do="change the schema, or the compatibility of the subject",
            place=topic.place,
        )
    known = registry.subjects()
    if subject not in known:
        yield Change(topic.name, f"register the schema {topic.schema}", "schema")
    elif not registry.has(subject, schema):
        version = registry.version(subject, "latest").version + 1
        yield Change(topic.name, f"register version {version} of the schema {topic.schema}", "schema")


def _schema(workspace: Workspace, topic: TopicDefinition) -> SchemaText:
    file = workspace.settings.root / str(topic.schema)
    if file.suffix not in SUFFIXES:
        raise DefinitionError(
            f"the type of the schema of topic {topic.name!r} is unknown",
            got=str(topic.schema),
            do="name it .avsc, .json or .proto",
            place=topic.place,
        )
    try:
        return SchemaText(file.read_text(encoding="utf-8"), SUFFIXES[file.suffix])
    except (OSError, UnicodeDecodeError) as error:
        raise DefinitionError(
            f"the schema of topic {topic.name!r} cannot be read", got=str(error), do="check schema=", place=topic.place
        ) from error
