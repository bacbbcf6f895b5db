"""What brokers tell about topics, and consumers of them. Failures come as `SourceError`, in words."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_fixed

from pipeline.connectors.kafka.messages import MessageConsumer, MessageFault, PythonConsumer
from pipeline.connectors.kafka.native import NativeConsumer, is_available
from pipeline.connectors.kafka.partitions import Partition, Topic
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.core.logs import logger
from pipeline.core.sources import Extent

log = logger(__name__)
T = TypeVar("T")
PATIENCE_S = 30.0
"""How long a broker may be away before a question to it fails."""
_ATTEMPT_S = 2.0
"""How long one broker has for its answer; then the question goes to the next: it may have died meanwhile."""
_SPREAD_S = 1.5
"""How long a topic must be unknown until it is believed: a broker that has just started knows of topics a little later."""
_AGAIN_S = 0.1
_LOG = logging.getLogger("headwater.kafka")
_LOG.addHandler(logging.NullHandler())
_READ_COMMITTED = IsolationLevel.READ_COMMITTED
_GONE = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - so the client names its own errors
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
_HOPELESS = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError._FATAL,  # noqa: SLF001
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)


class Client:
    """Asks brokers about topics. Safe to be used by several threads."""

    def __init__(self, options: Mapping[str, str], place: Place) -> None:
        """Connect when first asked."""
        self._place = place
        self._last: KafkaError | None = None
        try:
            settings: dict[str, Any] = {**options, "error_cb": self._heard}
            self._admin = AdminClient(settings, logger=_LOG)
        except KafkaException as error:
            raise SourceError("Kafka's client cannot be set up", got=_words(error), place=place) from error

    def topics(self, names: Sequence[str], pattern: str | None) -> Mapping[str, Topic]:
        """Return the topics of these names, or all whose whole name matches, in order; raise for a name that is none."""
        if pattern is not None:
            known = self._asked(lambda limit: self._admin.list_topics(timeout=limit)).topics
            names = sorted(name for name in known if re.fullmatch(pattern, name) and not name.startswith("__"))
        if not names:
            return {}
        found = self._each(
            lambda limit: self._admin.describe_topics(TopicCollection(list(names)), request_timeout=limit)
        )
        return {name: Topic(name, str(found[name].topic_id), len(found[name].partitions)) for name in sorted(names)}

    def extents(self, partitions: Sequence[Partition]) -> Mapping[Partition, Extent]:
        """Return what readers of committed records can read of each partition now."""
        begins = self._offsets(partitions, OffsetSpec.earliest())
        ends = self._offsets(partitions, OffsetSpec.latest(), isolation_level=_READ_COMMITTED)
        return {p: Extent(begins[p], max(begins[p], ends[p])) for p in partitions}

    def high_watermarks(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Return the end of each partition, with records of transactions that are not committed."""
        return self._offsets(partitions, OffsetSpec.latest(), isolation_level=IsolationLevel.READ_UNCOMMITTED)

    def offsets_at(self, partitions: Sequence[Partition], time: datetime) -> Mapping[Partition, int]:
        """Return the first offset that was written at that time or later; a partition's end where there is none."""
        when = max(0, int(time.timestamp() * 1000))
        found = self._offsets(partitions, OffsetSpec.for_timestamp(when), isolation_level=_READ_COMMITTED)
        late = [p for p in partitions if found[p] < 0]
        ends = self._offsets(late, OffsetSpec.latest(), isolation_level=_READ_COMMITTED)
        return {p: ends.get(p, found[p]) for p in partitions}

    def ids(self, names: Sequence[str], limit_s: float) -> Mapping[str, str] | None:
        """Return the ids of topics, an empty one for a topic that is gone; None when no broker answers in time."""
        deadline, believed = time.monotonic() + limit_s, time.monotonic() + min(limit_s / 2, _SPREAD_S)

        def ask() -> Mapping[str, str]:
            limit = _attempt(deadline - time.monotonic())
            try:
                futures = self._admin.describe_topics(TopicCollection(list(names)), request_timeout=limit)
                return {name: str(future.result().topic_id) for name, future in futures.items()}
            except KafkaException as error:
                if error.args[0].code() in _GONE and time.monotonic() > believed:
                    return dict.fromkeys(names, "")
                raise

        try:
            return self._retrying(limit_s, lambda _: True)(ask)
        except KafkaException:
            return None

    def _offsets(self, partitions: Sequence[Partition], spec: OffsetSpec, **options: object) -> Mapping[Partition, int]:
        if not partitions:
            return {}
        asked = {TopicPartition(p.topic, p.number): spec for p in partitions}
        found = self._each(lambda limit: self._admin.list_offsets(asked, request_timeout=limit, **options))
        return {Partition(at.topic, at.partition): int(result.offset) for at, result in found.items()}

    def _each(self, ask: Callable[[float], Mapping[Any, Future[Any]]]) -> dict[Any, Any]:
        return self._asked(lambda limit: {name: future.result() for name, future in ask(limit).items()})

    def _asked(self, ask: Callable[[float], T]) -> T:
        """Ask until there is an answer, an error that another attempt cannot cure, or the time limit."""
        begun = time.monotonic()

        def may_pass(error: KafkaException) -> bool:
            is_new = error.args[0].code() not in _GONE or time.monotonic() - begun <= _SPREAD_S
            return is_new and not self._is_refusal(error)

        try:
            return self._retrying(PATIENCE_S, may_pass)(lambda: ask(_attempt(begun + PATIENCE_S - time.monotonic())))
        except KafkaException as error:
            raise self._translated(error) from error

    def _retrying(self, limit_s: float, may_pass: Callable[[KafkaException], bool]) -> Retrying:
        """Return what calls a function again, up to a time limit, after an error of Kafka's that may pass."""
        return Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, KafkaException) and may_pass(error)),
            stop=stop_after_delay(limit_s),
            wait=wait_fixed(_AGAIN_S),
            before_sleep=self._log_first_retry,
            before=self._refresh_brokers,
            reraise=True,
        )

    def _log_first_retry(self, state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        if state.attempt_number == 1 and isinstance(error, KafkaException):
            log.warning("Kafka does not answer; retrying", place=str(self._place), error=_words(error))

    def _refresh_brokers(self, state: RetryCallState) -> None:
        """Before another attempt, refresh the list of brokers: requests go to one broker until it is known to be dead."""
        if state.attempt_number > 1:
            with contextlib.suppress(KafkaException):
                self._admin.list_topics(timeout=_ATTEMPT_S)

    def _is_refusal(self, error: KafkaException) -> bool:
        return error.args[0].code() in _HOPELESS or (self._last is not None and self._last.code() in _HOPELESS)

    def _translated(self, error: KafkaException) -> SourceError:
        last = self._last
        text = error.args[0].str() if last is None else f"{error.args[0].str()} ({last.str()})"
        if self._is_refusal(error):
            return SourceError("Kafka rejects the client", got=text, do="check security=", place=self._place)
        if error.args[0].code() in _GONE:
            return SourceError("the topic does not exist", got=error.args[0].str(), do="create it", place=self._place)
        return SourceUnavailableError(
            "Kafka does not answer", got=text, do="check servers=, or wait until Kafka is available", place=self._place
        )

    def _heard(self, error: KafkaError) -> None:
        self._last = error


class PartitionConsumer:
    """A consumer of some partitions: no group, committed records only, and never an offset of its own choice.

    An offset that the brokers do not have any more is an error.
    """

    def __init__(self, options: Mapping[str, str], place: Place, *, ahead_bytes: int) -> None:
        """Connect when partitions are added; hold at most so many bytes in the client itself."""
        self._place = place
        self._refused: str | None = None
        client = NativeConsumer if is_available() else PythonConsumer
        self.consumer: MessageConsumer = client(
            {
                **options,
                "group.id": "headwater",  # librdkafka requires a name; no group is joined, no offset is committed
                "enable.auto.commit": "false",
                "enable.auto.offset.store": "false",
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": "true",
                "queued.max.messages.kbytes": str(max(1024, ahead_bytes >> 10)),
                "queued.min.messages": "1000000",  # limited by bytes
                "fetch.wait.max.ms": "100",
                "fetch.error.backoff.ms": "100",
                "reconnect.backoff.max.ms": "1000",
                "max.poll.interval.ms": "86400000",
            },
            self._heard,
        )

    def add(self, offsets: Mapping[Partition, int]) -> None:
        """Read more partitions, each from its offset."""
        self.consumer.add([(p.topic, p.number, at) for p, at in offsets.items()])

    def raise_if_permanent(self, fault: MessageFault, partition: Partition) -> None:
        """Raise `SourceError` for a permanent error of a partition; ignore a transient one."""
        place = Place(partition.uri)
        if fault.code == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
            raise SourceError(
                "records were deleted before they were read, by retention or because the topic was recreated",
                got=fault.text,
                do="increase the retention; to continue with the remaining records: headwater stream --accept-gaps",
                place=place,
            )
        if fault.code in _GONE:
            raise SourceError("the partition no longer exists", got=fault.text, place=place)
        if fault.code in _HOPELESS:
            raise SourceError("Kafka rejects the client", got=fault.text, do="check security=", place=place)

    def check(self) -> None:
        """Raise `SourceError` if the brokers reject this client."""
        if self._refused is not None:
            raise SourceError("Kafka rejects the client", got=self._refused, do="check security=", place=self._place)

    def close(self) -> None:
        """Disconnect from the brokers."""
        self.consumer.close()

    def _heard(self, code: int, text: str) -> None:
        if code in _HOPELESS:
            self._refused = text


def _attempt(left_s: float) -> float:
    return min(_ATTEMPT_S, max(0.2, left_s))


def _words(error: KafkaException) -> str:
    found = error.args[0]
    return str(found.str()) if isinstance(found, KafkaError) else str(found)
