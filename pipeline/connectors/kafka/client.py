"""Queries brokers for metadata and offsets of topics, and consumes partitions. Failures are raised as `SourceError`."""

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
from pipeline.connectors.kafka.rejections import explained, is_rejection
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.core.logs import logger
from pipeline.core.sources import Extent

log = logger(__name__)
T = TypeVar("T")
PATIENCE_S = 30.0
"""How long a request is retried while no broker answers."""
REPLACE_AFTER_S = 10.0
"""How long a client may be without an answer before it is replaced by a new one."""
_ATTEMPT_S = 2.0
"""Time limit of one attempt; the next one may go to another broker."""
_METADATA_DELAY_S = 1.5
"""How long a topic must be unknown before it counts as missing: a broker learns of topics after its start."""
_RETRY_WAIT_S = 0.1
_LOG = logging.getLogger("headwater.kafka")
_LOG.addHandler(logging.NullHandler())
_READ_COMMITTED = IsolationLevel.READ_COMMITTED
_MISSING_CODES = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - the client's names for its internal errors
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)


class Client:
    """Queries brokers about topics. Thread-safe."""

    def __init__(self, options: Mapping[str, str], place: Place) -> None:
        """Prepare the client; it connects at the first request."""
        self._place = place
        self._options = options
        self._last: KafkaError | None = None
        self._rejection: str | None = None
        """The message of the last error that means that the client is not accepted."""
        self._silent_since: float | None = None
        """Since when no request has succeeded; `None` if the last one did."""
        self._admin = self._new_admin()

    def _new_admin(self) -> AdminClient:
        settings: dict[str, Any] = {**self._options, "error_cb": self._on_error}
        try:
            return AdminClient(settings, logger=_LOG)
        except KafkaException as error:
            raise SourceError("Kafka's client cannot be set up", got=_text(error), place=self._place) from error

    def topics(self, names: Sequence[str], pattern: str | None) -> Mapping[str, Topic]:
        """Return the named topics, or all that match `pattern` fully, sorted by name; raise if one does not exist."""
        if pattern is not None:
            known = self._request(lambda admin, limit: admin.list_topics(timeout=limit)).topics
            names = sorted(name for name in known if re.fullmatch(pattern, name) and not name.startswith("__"))
        if not names:
            return {}
        descriptions = self._request_each(
            lambda admin, limit: admin.describe_topics(TopicCollection(list(names)), request_timeout=limit)
        )
        return {
            name: Topic(name, str(descriptions[name].topic_id), len(descriptions[name].partitions))
            for name in sorted(names)
        }

    def extents(self, partitions: Sequence[Partition]) -> Mapping[Partition, Extent]:
        """Return the range of offsets of each partition that readers of committed records can read now."""
        begins = self._offsets(partitions, OffsetSpec.earliest())
        ends = self._offsets(partitions, OffsetSpec.latest(), isolation_level=_READ_COMMITTED)
        return {p: Extent(begins[p], max(begins[p], ends[p])) for p in partitions}

    def high_watermarks(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Return the end of each partition, including records of uncommitted transactions."""
        return self._offsets(partitions, OffsetSpec.latest(), isolation_level=IsolationLevel.READ_UNCOMMITTED)

    def offsets_at(self, partitions: Sequence[Partition], time: datetime) -> Mapping[Partition, int]:
        """Return the first offset at or after a time; the end of the partition if there is none."""
        when = max(0, int(time.timestamp() * 1000))
        offsets = self._offsets(partitions, OffsetSpec.for_timestamp(when), isolation_level=_READ_COMMITTED)
        without_record = [p for p in partitions if offsets[p] < 0]
        ends = self._offsets(without_record, OffsetSpec.latest(), isolation_level=_READ_COMMITTED)
        return {p: ends.get(p, offsets[p]) for p in partitions}

    def ids(self, names: Sequence[str], limit_s: float) -> Mapping[str, str] | None:
        """Return the ids of topics, empty for a topic that does not exist; None if no broker answers in time."""
        deadline, trusted_after = time.monotonic() + limit_s, time.monotonic() + min(limit_s / 2, _METADATA_DELAY_S)

        def ask() -> Mapping[str, str]:
            limit, admin = _attempt(deadline - time.monotonic()), self._admin  # it must outlive its futures
            try:
                futures = admin.describe_topics(TopicCollection(list(names)), request_timeout=limit)
                return {name: str(future.result().topic_id) for name, future in futures.items()}
            except KafkaException as error:
                if error.args[0].code() in _MISSING_CODES and time.monotonic() > trusted_after:
                    return dict.fromkeys(names, "")
                raise

        try:
            return self._retried(limit_s, lambda _: True, ask)
        except KafkaException:
            return None

    def _offsets(self, partitions: Sequence[Partition], spec: OffsetSpec, **options: object) -> Mapping[Partition, int]:
        if not partitions:
            return {}
        specs = {TopicPartition(p.topic, p.number): spec for p in partitions}
        results = self._request_each(lambda admin, limit: admin.list_offsets(specs, request_timeout=limit, **options))
        return {Partition(at.topic, at.partition): int(result.offset) for at, result in results.items()}

    def _request_each(self, ask: Callable[[AdminClient, float], Mapping[Any, Future[Any]]]) -> dict[Any, Any]:
        return self._request(lambda admin, limit: {name: future.result() for name, future in ask(admin, limit).items()})

    def _request(self, ask: Callable[[AdminClient, float], T]) -> T:
        """Send a request until it succeeds, fails permanently, or reaches the time limit."""
        started = time.monotonic()

        def is_transient(error: KafkaException) -> bool:
            self._admin.poll(0)  # errors of connections are reported only then
            may_be_new = error.args[0].code() not in _MISSING_CODES or time.monotonic() - started <= _METADATA_DELAY_S
            return may_be_new and not self._is_rejection(error)

        try:
            return self._retried(
                PATIENCE_S, is_transient, lambda: ask(self._admin, _attempt(started + PATIENCE_S - time.monotonic()))
            )
        except KafkaException as error:
            raise self._translated(error) from error

    def _retried(self, limit_s: float, is_transient: Callable[[KafkaException], bool], ask: Callable[[], T]) -> T:
        """Repeat a call that fails with a transient Kafka error, up to a time limit."""
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, KafkaException) and is_transient(error)),
            stop=stop_after_delay(limit_s),
            wait=wait_fixed(_RETRY_WAIT_S),
            before_sleep=self._log_first_retry,
            before=self._refresh_brokers,
            reraise=True,
        )
        try:
            result = retrying(ask)
        except KafkaException as error:
            if is_transient(error):
                self._replace_if_silent()
            raise
        self._silent_since = self._rejection = None
        return result

    def _log_first_retry(self, state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        if state.attempt_number == 1 and isinstance(error, KafkaException):
            log.warning("Kafka does not answer; retrying", place=str(self._place), error=_text(error))

    def _refresh_brokers(self, state: RetryCallState) -> None:
        """Refresh the list of brokers before a retry: otherwise requests still go to a broker that has just died."""
        if state.attempt_number > 1:
            self._replace_if_silent()
            with contextlib.suppress(KafkaException):
                self._admin.list_topics(timeout=_ATTEMPT_S)

    def _replace_if_silent(self) -> None:
        """Replace the client if no request has succeeded for some time.

        After a long outage, librdkafka may not use a broker that is back.
        """
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since > REPLACE_AFTER_S:
            log.info("Kafka client is replaced: it has not answered", place=str(self._place))
            self._admin, self._silent_since = self._new_admin(), now

    def _is_rejection(self, error: KafkaException) -> bool:
        reason = error.args[0]
        return self._rejection is not None or is_rejection(reason.code(), reason.str())

    def _translated(self, error: KafkaException) -> SourceError:
        last = self._last
        text = error.args[0].str() if last is None else f"{error.args[0].str()} ({last.str()})"
        if self._is_rejection(error):
            return explained(self._rejection or error.args[0].str(), self._options).error(self._place)
        if error.args[0].code() in _MISSING_CODES:
            return SourceError("the topic does not exist", got=error.args[0].str(), do="create it", place=self._place)
        return SourceUnavailableError(
            "Kafka does not answer", got=text, do="check servers=, or wait until Kafka is available", place=self._place
        )

    def _on_error(self, error: KafkaError) -> None:
        self._last = error
        if is_rejection(error.code(), error.str()):
            self._rejection = error.str()


class PartitionConsumer:
    """Consumes partitions without a consumer group: committed records only, from the given offsets.

    Offsets that the brokers no longer have raise an error; they are never reset.
    """

    def __init__(self, options: Mapping[str, str], place: Place, *, ahead_bytes: int) -> None:
        """Configure the client; it connects when partitions are added and prefetches at most `ahead_bytes`."""
        self._place, self._options = place, options
        self._rejection: str | None = None
        client = NativeConsumer if is_available() else PythonConsumer
        self.consumer: MessageConsumer = client(
            {
                **options,
                "group.id": "headwater",  # required by librdkafka; no group is joined, no offset is committed
                "enable.auto.commit": "false",
                "enable.auto.offset.store": "false",
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": "true",
                "queued.max.messages.kbytes": str(max(1024, ahead_bytes >> 10)),
                "queued.min.messages": "1000000",  # the limit in bytes applies
                "fetch.wait.max.ms": "100",
                "fetch.error.backoff.ms": "100",
                "reconnect.backoff.max.ms": "1000",
                "max.poll.interval.ms": "86400000",
            },
            self._on_error,
        )

    def add(self, offsets: Mapping[Partition, int]) -> None:
        """Start reading partitions, each from its offset."""
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
        if fault.code in _MISSING_CODES:
            raise SourceError("the partition no longer exists", got=fault.text, place=place)
        if is_rejection(fault.code, fault.text):
            raise explained(fault.text, self._options).error(place)

    def check(self) -> None:
        """Raise `SourceError` if the brokers reject this client."""
        if self._rejection is not None:
            raise explained(self._rejection, self._options).error(self._place)

    def close(self) -> None:
        """Disconnect from the brokers."""
        self.consumer.close()

    def _on_error(self, code: int, text: str) -> None:
        if is_rejection(code, text):
            self._rejection = text


def _attempt(left_s: float) -> float:
    return min(_ATTEMPT_S, max(0.2, left_s))


def _text(error: KafkaException) -> str:
    reason = error.args[0]
    return str(reason.str()) if isinstance(reason, KafkaError) else str(reason)
