"""The faults that Headwater must bear: docs/faults.md is this list, and each test says which of its rows it shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A fault, how it is brought about, and what must hold besides what the oracle says."""

    number: int
    fault: str
    by: str
    holds: str
    instead: str = ""
    """For a row without a test here: where it is shown, or that it is not yet."""


ROWS = (
    Row(
        1,
        "crash after the commit, before what follows from it",
        "SIGKILL at the point",
        "the epoch is not run again; the quarantine is made good",
    ),
    Row(
        2,
        "crash after the memory is saved, before the commit",
        "SIGKILL at the point",
        "what was saved is not used; the same range is read again",
    ),
    Row(
        3,
        "crash after rows are staged",
        "SIGKILL at the point",
        "orphans are invisible; a full vacuum removes them and nothing else",
    ),
    Row(
        4,
        "a commit applied, its reply 500 or dropped",
        "proxy before an object store",
        "one logical commit; once in the change data feed",
    ),
    Row(
        5,
        "a commit applied, then a time-out",
        "proxy before an object store",
        "what is unknown is found out, not repeated",
    ),
    Row(6, "storms of 409, 412, 503", "proxy before an object store", "bounded retries, then an error or progress"),
    Row(
        7,
        "a coordinator that was thought dead",
        "SIGSTOP, a second one, SIGCONT",
        "the old one fails with a conflict and exits non-zero",
    ),
    Row(8, "two coordinators at once", "two processes, 20 seeds", "one wins each epoch"),
    Row(
        9,
        "an epoch repeated with user code that is random",
        "SIGKILL mid-way",
        "what is committed is committed once, and read by all alike",
    ),
    Row(
        10,
        "a worker killed or out of memory",
        "SIGKILL of an actor; a small memory limit",
        "no doubled effect; goes on from the last commit",
    ),
    Row(11, "a node lost with its objects", "several nodes on one machine", "no partial commit"),
    Row(12, "the head lost", "the cluster's control store killed", "resumes within 60 s"),
    Row(13, "lost Ray RPCs", "Ray's own chaos settings", "nothing lost"),
    Row(14, "a broker killed, its leader moved, all restarted", "SIGKILL", "order within a key"),
    Row(
        15,
        "retention overtakes the reader",
        "a tiny retention",
        "stops loudly, never resets",
        instead="`tests/connectors/kafka/test_kafka_source.py`",
    ),
    Row(
        16,
        "a topic made again; partitions added",
        "the admin interface",
        "stops on a new topic; a new partition is read from 0",
        instead="`tests/connectors/kafka/test_kafka_source.py`",
    ),
    Row(
        17,
        "transactions aborted or left open",
        "a transactional producer",
        "only what is committed is read; a reader that is held up says so",
        instead="`tests/connectors/kafka/test_kafka_source.py`",
    ),
    Row(18, "a Kafka sink thought dead", "SIGSTOP past the transaction's time-out", "fenced, nothing lost"),
    Row(19, "a partition idle, all idle, one far ahead", "rows for 1 of 4", "windows close after the idle time-out"),
    Row(20, "time stamps in the future", "rows of tomorrow", "the watermark does not jump; the rows are set aside"),
    Row(
        21,
        "poison",
        "bad bytes, null keys, deep JSON, NaN, edges of integers",
        "set aside with its place, before the commit; the partition goes on",
        instead="`tests/connectors/kafka/test_kafka_value_formats.py`",
    ),
    Row(
        22,
        "the schema breaks mid-stream; the registry is down",
        "a new version; a dead registry",
        "what is compatible goes on, else set aside or stop",
        instead="`tests/connectors/kafka/test_kafka_value_formats.py`",
    ),
    Row(23, "disk full while rows or memory are written", "a small tmpfs", "the last good state is there; resumes"),
    Row(
        24,
        "state files torn, flipped, gone or swapped",
        "each of them, each way",
        "found by its checksum and refused; made anew with --from earliest",
    ),
    Row(
        25,
        "an upgrade from every state format",
        "golden folders",
        "the same result or a clear refusal",
        "`tests/golden/test_golden_formats.py`",
    ),
    Row(26, "N shards to M between epochs", "restart", "the same result"),
    Row(27, "10 million keys; one key with 90 %", "a computed log", "memory bounded by ttl and spill"),
    Row(28, "clock jumps", "the clock that is passed in", "event time gives the same"),
    Row(29, "optimize, vacuum, erasure beside a stream", "threads", "no reader fails, erased rows stay erased"),
    Row(30, "a sink ten times slower, an hour of backlog", "delay", "bounded memory, bounded epochs"),
    Row(31, "a change log doubled, disordered, lost", "a log told again", "the target equals the source"),
    Row(32, "10 writers, 2,000 commits each, one table", "processes", "none lost"),
)
