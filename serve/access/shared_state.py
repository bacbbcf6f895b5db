"""What the replicas of a project share by a Redis or Valkey server."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pipeline.project.project import Project
from serve.access.secret_file import secret_of
from serve.access.shared_limits import SharedLimits
from serve.access.shared_server import SharedServer
from serve.access.shared_versions import SharedVersions


@dataclass(frozen=True)
class SharedState:
    """The server, and what is shared by it."""

    server: SharedServer
    limits: SharedLimits
    versions: SharedVersions

    @classmethod
    def of(cls, project: Project, tables: Collection[str], told: Callable[[str, str], None]) -> SharedState:
        """Return what the replicas of a project share, and call `told` for versions of tables that others have seen.

        Does not wait for the server. Raises `SettingsError` for an invalid URL.
        """
        settings = project.settings
        given = settings.serve.redis_secret.encode()
        secret = given or secret_of(settings.state / "shared" / f"{settings.env}.secret")
        server = SharedServer(settings.serve.redis_url, f"{settings.name}.{settings.env}", secret)
        return cls(server, SharedLimits(server), SharedVersions(server, tables, told))

    @property
    def reasons(self) -> list[str]:
        """Why nothing is shared now; none if it is."""
        if not self.server.is_up:
            return ["the Redis server does not answer: each replica counts and computes alone"]
        return ["other replicas have another redis_secret: nothing is shared"] if self.server.has_other_secret else []

    def report(self) -> dict[str, object]:
        """Return how sharing goes: whether the server answers, how often it did not, and how many requests were counted alone."""
        return {
            "is_shared": not self.reasons,
            "failures": self.server.failures,
            "counted_alone": self.limits.counted_alone,
            "versions_received": self.versions.received,
        }
