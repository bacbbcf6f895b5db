"""Topics and their partitions; a partition is a source object, identified by its URI."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import SourceError

_SCHEME = "kafka://"


@dataclass(frozen=True, order=True)
class Partition:
    """One partition of a topic."""

    topic: str
    number: int

    @property
    def uri(self) -> str:
        """`kafka://topic/number`, independent of the cluster."""
        return f"{_SCHEME}{self.topic}/{self.number}"

    @classmethod
    def of(cls, uri: str) -> Partition:
        """Parse the URI of a partition; raise `SourceError` if it does not name one."""
        topic, _, number = uri.removeprefix(_SCHEME).rpartition("/")
        if not uri.startswith(_SCHEME) or not topic or not number.isdecimal():
            raise SourceError("the URI does not name a Kafka partition", got=repr(uri), do="write kafka://topic/0")
        return cls(topic, int(number))


@dataclass(frozen=True)
class Topic:
    """A topic as the cluster describes it now. Its id changes if it is deleted and created again."""

    name: str
    id: str
    partitions: int
