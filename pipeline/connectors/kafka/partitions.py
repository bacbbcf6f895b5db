"""The names of topics' partitions, as pieces of a source."""

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
        """`kafka://topic/number`: the same in every cluster."""
        return f"{_SCHEME}{self.topic}/{self.number}"

    @classmethod
    def of(cls, uri: str) -> Partition:
        """Return the partition of a URI; raise `SourceError` for one that names none."""
        topic, _, number = uri.removeprefix(_SCHEME).rpartition("/")
        if not uri.startswith(_SCHEME) or not topic or not number.isdecimal():
            raise SourceError("the URI does not name a Kafka partition", got=repr(uri), do="write kafka://topic/0")
        return cls(topic, int(number))


@dataclass(frozen=True)
class Topic:
    """A topic as its cluster has it now. Its id is another when it was deleted and created again."""

    name: str
    id: str
    partitions: int
