"""Reads the shards of a Kinesis stream, each after its last record in the log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from pipeline.connectors.queues.queue_log import QueueMessage
from pipeline.connectors.spool.record_log import parts_of
from pipeline.core.clients import message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.core.logs import logger

if TYPE_CHECKING:
    from pipeline.connectors.queues.kinesis import KinesisStream

log = logger(__name__)
_MOST = 10_000
_BETWEEN_S = 0.25
"""A shard answers five requests a second."""
_REFUSED = {
    "AccessDeniedException",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "ExpiredTokenException",
}
_SERVER_ERROR = 500
_BUSY = {"ProvisionedThroughputExceededException", "LimitExceededException", "KMSThrottlingException"}


class KinesisSubscription:
    """Reads all shards in turn; a shard is read after its parents have ended."""

    def __init__(self, source: KinesisStream) -> None:
        """Connect; raise `SourceUnavailableError` or `SourceError` if that fails."""
        self._source, self._place = source, Place(source.uri)
        self._iterators: dict[str, str] = {}
        self._last: dict[str, str] = {}
        self._ended: set[str] = set()
        self._asked_at = 0.0
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=30)
        with self._translated_errors():
            self._client = boto3.session.Session().client(
                "kinesis", region_name=source.region, endpoint_url=source.endpoint, config=config
            )
            summary = self._client.describe_stream_summary(StreamName=source.stream)["StreamDescriptionSummary"]
            self._retention = timedelta(hours=summary["RetentionPeriodHours"])
            self._open()

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def receive(self, timeout_s: float) -> Sequence[QueueMessage]:
        """Return the next records of each shard; wait if there are none."""
        time.sleep(max(0.0, min(_BETWEEN_S, self._asked_at + _BETWEEN_S - time.monotonic())))
        self._asked_at = time.monotonic()
        messages = [message for shard in list(self._iterators) for message in self._records(shard)]
        if not messages:
            time.sleep(timeout_s)
        return messages

    def acknowledge(self, messages: Sequence[QueueMessage]) -> None:
        """Do nothing: Kinesis keeps records, and the log tells which of them were read."""

    def _records(self, shard: str) -> Iterator[QueueMessage]:
        with self._translated_errors():
            try:
                answer = self._client.get_records(ShardIterator=self._iterators[shard], Limit=_MOST)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code == "ExpiredIteratorException":
                    self._iterators[shard] = self._iterator(shard)
                elif code not in _BUSY:
                    raise
                return
            for each in answer["Records"]:
                self._last[shard] = each["SequenceNumber"]
                fields = {
                    "key": each["PartitionKey"],
                    "sequence": each["SequenceNumber"],
                    "arrived_at": each["ApproximateArrivalTimestamp"].astimezone(UTC).isoformat(),
                }
                yield QueueMessage(each["Data"], fields, partition=shard)
            following = answer.get("NextShardIterator")
            is_closed = shard in self._closed and not answer["Records"] and not answer.get("MillisBehindLatest")
            if following and not is_closed:
                self._iterators[shard] = following
                return
            del self._iterators[shard]
            self._ended.add(shard)
            self._open()

    def _open(self) -> None:
        """Begin to read the shards whose parents have ended, or no longer exist."""
        shards = {each["ShardId"]: each for each in self._shards()}
        self._closed = {
            name for name, each in shards.items() if each["SequenceNumberRange"].get("EndingSequenceNumber")
        }
        for name, each in shards.items():
            parents = {each.get("ParentShardId"), each.get("AdjacentParentShardId")} & shards.keys()
            if name not in self._ended and name not in self._iterators and parents <= self._ended:
                partition = self._source.partition(name)
                partition.append([])
                fields = _last_fields(self._source, name)
                if fields:
                    self._last[name] = str(fields["sequence"])
                    self._warn_of_gap(name, fields)
                self._iterators[name] = self._iterator(name)

    def _shards(self) -> Iterator[Mapping[str, Any]]:
        answer = self._client.list_shards(StreamName=self._source.stream)
        yield from answer["Shards"]
        while answer.get("NextToken"):
            answer = self._client.list_shards(NextToken=answer["NextToken"])
            yield from answer["Shards"]

    def _iterator(self, shard: str) -> str:
        last = self._last.get(shard)
        start = {"ShardIteratorType": "TRIM_HORIZON"}
        if last is not None:
            start = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": last}
        answer = self._client.get_shard_iterator(StreamName=self._source.stream, ShardId=shard, **start)
        return str(answer["ShardIterator"])

    def _warn_of_gap(self, shard: str, fields: Mapping[str, Any]) -> None:
        last = datetime.fromisoformat(str(fields["arrived_at"]))
        if datetime.now(UTC) - last > self._retention:
            log.warning("records may have been removed before they were read", shard=shard, last=str(last))

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            got = message_of(error)
            if code == "ResourceNotFoundException":
                problem = f"the stream {self._source.stream!r} does not exist in {self._source.region}"
                raise SourceError(problem, got=got, place=self._place) from error
            if code in _REFUSED:
                do = "check the credentials of the AWS SDK and their permissions"
                raise SourceError("Kinesis refuses the client", got=got, do=do, place=self._place) from error
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", _SERVER_ERROR)
            if status < _SERVER_ERROR and code not in _BUSY and not code.startswith("Throttling"):
                do = "correct the options of kinesis(…), or read the stream from another place"
                raise SourceError("Kinesis refuses the request", got=got, do=do, place=self._place) from error
            raise SourceUnavailableError("Kinesis does not answer", got=got, place=self._place) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            do = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
            raise SourceError("there are no credentials for Kinesis", got=message_of(error), do=do) from error
        except BotoCoreError as error:
            got, do = message_of(error), "check region= and endpoint="
            raise SourceUnavailableError("Kinesis does not answer", got=got, do=do, place=self._place) from error


def _last_fields(source: KinesisStream, shard: str) -> Mapping[str, Any] | None:
    """Return the metadata of the last record of a shard in the log; `None` if it has none."""
    partition = source.partition(shard)
    extent = partition.extent()
    if extent is None or extent.begin == extent.end:
        return None
    (line,) = partition.records(extent.end - 1, extent.end)
    return parts_of(line)[1]
