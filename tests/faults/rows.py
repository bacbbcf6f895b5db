"""The faults that Headwater must tolerate, as listed in docs/faults.md. Each fault test names the rows it covers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A fault, how it is injected, and what must hold in addition to the oracle."""

    number: int
    fault: str
    by: str
    holds: str
    instead: str = ""
    """For a row without a test in this folder: where it is tested."""


ROWS = (
    Row(
        1,
        "crash after the commit, before post-commit",
        "SIGKILL at that step",
        "the epoch is not repeated; the quarantine is completed",
    ),
    Row(
        2,
        "crash after the state is saved, before the commit",
        "SIGKILL at that step",
        "the saved state is not used; the same range is read again",
    ),
    Row(
        3,
        "crash after rows are staged",
        "SIGKILL at that step",
        "orphaned files are invisible; the next run removes only them",
    ),
    Row(
        4,
        "a commit is applied, its response is 500 or dropped",
        "proxy in front of an object store",
        "one logical commit; once in the change data feed",
    ),
    Row(
        5,
        "a commit is applied, then times out",
        "proxy in front of an object store",
        "the unknown outcome is resolved, the commit is not repeated",
    ),
    Row(
        6,
        "many 409, 412 and 503 responses",
        "proxy in front of an object store",
        "bounded retries, then an error or progress",
    ),
    Row(
        7,
        "a suspended coordinator resumes",
        "SIGSTOP, a second one, SIGCONT",
        "the old one fails with a conflict and exits non-zero",
    ),
    Row(8, "two concurrent coordinators", "two processes, 20 seeds", "one wins each epoch"),
    Row(
        9,
        "an epoch is repeated with random user code",
        "SIGKILL during the epoch",
        "results are committed once, and all readers see the same",
    ),
    Row(
        10,
        "a worker is killed or runs out of memory",
        "SIGKILL of an actor; a small memory limit",
        "no duplicates; resumes from the last commit",
    ),
    Row(
        11,
        "a node is lost with its objects",
        "nodes of one machine are drained, killed and stopped",
        "no partial commit",
    ),
    Row(12, "the head node is lost", "the cluster's control store is killed", "resumes within 60 s"),
    Row(13, "lost Ray RPCs", "Ray's own chaos settings", "nothing is lost"),
    Row(14, "a broker is killed, its leader moves, all are restarted", "SIGKILL", "order within a key"),
    Row(
        15,
        "retention overtakes the reader",
        "a very short retention",
        "stops with an error, never resets",
        instead="`tests/connectors/kafka/test_kafka_source.py`",
    ),
    Row(
        16,
        "a topic is recreated; partitions are added",
        "the admin interface",
        "stops at a recreated topic; a new partition is read from offset 0",
        instead="`tests/connectors/kafka/test_kafka_source.py`",
    ),
    Row(
        17,
        "transactions are aborted or left open",
        "a transactional producer",
        "only committed records are read; a blocked reader reports it",
        instead="`tests/connectors/kafka/test_kafka_source.py`",
    ),
    Row(18, "a suspended Kafka sink resumes", "SIGSTOP beyond the transaction timeout", "fenced, nothing is lost"),
    Row(
        19,
        "one partition is idle, all are idle, one is far ahead",
        "rows for 1 of 4 partitions",
        "windows close after the idle timeout",
    ),
    Row(
        20,
        "timestamps in the future",
        "rows of the next day",
        "the watermark does not jump; the rows are quarantined",
    ),
    Row(
        21,
        "poison messages",
        "invalid bytes, null keys, deep JSON, NaN, integer limits",
        "quarantined with their position in the same commit; the partition continues",
        instead="`tests/connectors/kafka/test_kafka_value_formats.py`",
    ),
    Row(
        22,
        "an incompatible schema change; the registry is down",
        "a new version; a stopped registry",
        "compatible messages continue, others are quarantined or stop the stream",
        instead="`tests/connectors/kafka/test_kafka_value_formats.py`",
    ),
    Row(23, "disk full while rows or state are written", "a small tmpfs", "the last commit is intact; resumes"),
    Row(
        24,
        "state files are torn, modified, missing or swapped",
        "each file, in each way",
        "detected by checksum and rejected; rebuilt with --from earliest",
    ),
    Row(
        25,
        "an upgrade from every state format",
        "stored projects of earlier versions",
        "the same result or a clear error",
        "`tests/golden/test_golden_formats.py`",
    ),
    Row(26, "the number of shards changes between epochs", "restart", "the same result"),
    Row(27, "10 million keys; one key with 90 % of the rows", "a computed log", "memory bounded by ttl and spilling"),
    Row(28, "clock jumps", "an injected clock", "the same result in event time"),
    Row(
        29, "compaction, vacuum and erasure while a stream runs", "threads", "no reader fails, erased rows stay erased"
    ),
    Row(30, "a sink ten times slower, an hour of backlog", "delay", "bounded memory, bounded epochs"),
    Row(
        31, "a change log with duplicated, reordered and lost records", "a replayed log", "the target equals the source"
    ),
    Row(32, "10 writers of one table with 2,000 commits each", "processes", "no commit is lost"),
)
