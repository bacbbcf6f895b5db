"""The caller of a request: what is known of it, after its key or token was checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

Kind = Literal["anonymous", "key", "token", "certificate"]


@dataclass(frozen=True)
class Caller:
    """Who calls. It may do what its scopes say, and sees what the policies for its roles and claims show."""

    id: str
    """The id of its key, or the subject of its token or certificate."""
    kind: Kind
    name: str = ""
    roles: frozenset[str] = frozenset()
    scopes: tuple[str, ...] = ()
    claims: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_anonymous(self) -> bool:
        """Whether nothing is known of it."""
        return self.kind == "anonymous"

    def may(self, scope: str, name: str = "") -> bool:
        """Return whether it may do something with what has this name; without one, with anything."""
        for each in self.scopes:
            word, _, pattern = each.partition(":")
            if word == scope and (not pattern or not name or fnmatchcase(name, pattern)):
                return True
        return False


ANONYMOUS = Caller("anonymous", "anonymous")
