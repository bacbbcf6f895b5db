"""The faults that Headwater must tolerate. docs/faults.md shows this list; each test marks the rows that it covers."""

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
    """For a row without a test in this folder: the test that covers it. Empty: not covered yet."""


ROWS = (
    Row(
        1,
        "crash after the commit, before post-commit",
        "SIGKILL at the fault point",
        "the epoch does not run again; the quarantine is completed",
    ),
    Row(
        2,
        "crash after the state is saved, before the commit",
        "SIGKILL at the fault point",
        "the saved state is not used; the same range is read again",
    ),
    Row(
        3,
        "crash after rows are staged",
        "SIGKILL at the fault point",
        "orphaned files are invisible; a full vacuum removes them and nothing else",
    ),
    Row(
        4,
        "a commit is applied, its response is a 500 or dropped",
        "proxy in front of an object store",
        "one logical commit; once in the change data feed",
    ),
    Row(
        5,
        "a commit is applied, then a timeout",
        "proxy in front of an object store",
        "the outcome is determined, the commit is not repeated",
    ),
    Row(
        6, "storms of 409, 412, 503", "proxy in front of an object store", "bounded retries, then an error or progress"
    ),
    Row(
        7,
        "a coordinator that was presumed dead returns",
        "SIGSTOP, a second coordinator, SIGCONT",
        "the old one fails with a conflict and exits non-zero",
    ),
    Row(8, "two concurrent coordinators", "two processes, 20 seeds", "exactly one commits each epoch"),
    Row(
        9,
        "an epoch is repeated with non-deterministic user code",
        "SIGKILL during the epoch",
        "each epoch is committed once, and all readers see the same rows",
    ),
    Row(
        10,
        "a worker is killed or out of memory",
        "SIGKILL of an actor; a small memory limit",
        "no duplicated effect; resumes from the last commit",
    ),
    Row(11, "a node is lost with its objects", "several nodes on one machine", "no partial commit"),
    Row(12, "the head node is lost", "the cluster's control store is killed", "resumes within 60 s"),
    Row(13, "lost Ray RPCs", "Ray's own chaos settings", "nothing is lost"),
    Row(14, "a broker is killed, its leader moves, all brokers restart", "SIGKILL", "order within a key"),
    Row(
        15,
        "retention deletes records before they are read",
        "a short retention",
        "stops with an error, never resets",
        instead="`tests/connectors/kafka/test_kafka_source.py`",
    ),
    Row(
        16,
        "a topic is recreated; partitions are added",
        "the admin interface",
        "stops on a recreated topic; a new partition is read from 0",
        instead="`tests/connectors/kafka/test_kafka_source.py`",
    ),
    Row(
        17,
        "transactions are aborted or left open",
        "a transactional producer",
        "only committed records are read; a reader that is blocked reports it",
        instead="`tests/connectors/kafka/test_kafka_source.py`",
    ),
    Row(
        18,
        "a Kafka sink that was presumed dead returns",
        "SIGSTOP past the transaction timeout",
        "fenced, nothing is lost",
    ),
    Row(
        19,
        "one partition idle, all idle, one far ahead",
        "rows for 1 of 4 partitions",
        "windows close after the idle timeout",
    ),
    Row(20, "timestamps in the future", "rows of tomorrow", "the watermark does not jump; the rows are quarantined"),
    Row(
        21,
        "invalid records",
        "invalid bytes, null keys, deep JSON, NaN, integer limits",
        "quarantined with their position, before the commit; the partition continues",
        instead="`tests/connectors/kafka/test_kafka_value_formats.py`",
    ),
    Row(
        22,
        "an incompatible schema change; the registry is down",
        "a new version; an unreachable registry",
        "compatible records are read, others are quarantined or stop the stream",
        instead="`tests/connectors/kafka/test_kafka_value_formats.py`",
    ),
    Row(
        23, "disk full while rows or state are written", "a small tmpfs", "the last committed state is intact; resumes"
    ),
    Row(
        24,
        "state files truncated, corrupted, missing or swapped",
        "each file, each way",
        "detected by checksum and refused; rebuilt with --from earliest",
    ),
    Row(
        25,
        "an upgrade from every state format",
        "golden folders",
        "the same result or a clear error",
        "`tests/golden/test_golden_formats.py`",
    ),
    Row(26, "N shards to M between epochs", "restart", "the same result"),
    Row(
        27, "10 million keys; one key with 90 % of the rows", "a generated log", "memory is bounded by ttl and spilling"
    ),
    Row(28, "clock jumps", "an injected clock", "event time yields the same result"),
    Row(29, "optimize, vacuum and erasure during a stream", "threads", "no reader fails, erased rows stay erased"),
    Row(30, "a sink ten times slower, an hour of backlog", "delay", "bounded memory, bounded epochs"),
    Row(31, "a change log duplicated, reordered, partly lost", "a replayed log", "the target equals the source"),
    Row(32, "10 writers, 2,000 commits each, one table", "processes", "no commit is lost"),
)
