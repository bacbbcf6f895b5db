"""What the bucket of a lake should look like: the tables with their policies, the roles, and how it is encrypted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.core.errors import DefinitionError, RequestError, did_you_mean
from pipeline.core.lake_policy import LakePolicy

WRITER = "writer"
"""The role of the processes that run the project."""


@dataclass(frozen=True)
class PlacedTable:
    """A table of the lake, with its folder below the lake and its policy."""

    name: str
    folder: str
    """For example `gold/orders`."""
    policy: LakePolicy


@dataclass(frozen=True)
class DesiredBucket:
    """A bucket, the prefix of the lake in it, and what is declared about it."""

    bucket: str
    prefix: str
    """The path of the lake in the bucket, with a slash at its end, or empty."""
    project: str
    """The names of project and environment, which mark what belongs to them: `shop/prod`."""
    tables: Sequence[PlacedTable]
    roles: Mapping[str, str] = field(default_factory=dict)
    """The ARN of each role that policies name."""
    kms_key: str = ""
    """The key of KMS with which objects are encrypted; empty for keys of S3."""
    has_tls: bool = True
    """Whether the store is reached by HTTPS, so that the bucket can require it."""

    def __post_init__(self) -> None:
        """Raise `DefinitionError` for a policy that names a role without an ARN."""
        for table in self.tables:
            for role in table.policy.readers:
                if role not in self.roles:
                    do = did_you_mean(role, self.roles) if self.roles else f'set {role} = "arn:aws:iam::…" there'
                    problem = (
                        f"readers= of table {table.name!r} names a role {role!r}, which [env.….roles] does not have"
                    )
                    raise DefinitionError(problem, do=do)

    @property
    def readers(self) -> dict[str, tuple[PlacedTable, ...]]:
        """The tables that each role may read, by role."""
        return {role: tuple(t for t in self.tables if role in t.policy.readers) for role in sorted(self.roles)}

    def objects(self, folder: str = "") -> str:
        """Return the ARN pattern of the objects in a folder of the lake, by default of all of them."""
        return f"arn:aws:s3:::{self.bucket}/{self.prefix}{folder and folder + '/'}*"

    @property
    def mark(self) -> str:
        """The beginning of the ids of statements that belong to the project; ids have only letters and digits."""
        return "Headwater" + "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", self.project))


def place_of(uri: str) -> tuple[str, str]:
    """Return the bucket and the prefix of a lake; raise `RequestError` unless it is on S3."""
    scheme, separator, path = uri.partition("://")
    if not separator or scheme not in {"s3", "s3a"}:
        raise RequestError(
            "only a lake on S3 has a bucket with policies", got=uri, do="choose an environment with --env"
        )
    bucket, _, prefix = path.strip("/").partition("/")
    return bucket, f"{prefix}/" if prefix else ""
