"""What the replicas of a project share by a Redis or Valkey server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path

from pipeline.governance.access_policies import AccessPolicy
from pipeline.project.project import Project
from pipeline.warehouse.modelling.metrics import MetricDefinition
from serve.access.secret_file import secret_of
from serve.access.shared_cache import SharedCache
from serve.access.shared_limits import SharedLimits
from serve.access.shared_server import SharedServer
from serve.access.shared_versions import SharedVersions

_SERVE = Path(__file__).parents[1]


@dataclass(frozen=True)
class SharedState:
    """The server, and what is shared by it."""

    server: SharedServer
    limits: SharedLimits
    versions: SharedVersions
    cache: SharedCache | None
    """The second level of responses, if they are shared."""

    @classmethod
    def of(cls, project: Project, tables: Collection[str], told: Callable[[str, str], None]) -> SharedState:
        """Return what the replicas of a project share, and call `told` for versions of tables that others have seen.

        Does not wait for the server. Raises `SettingsError` for an invalid URL.
        """
        settings = project.settings
        given = settings.serve.redis_secret.encode()
        secret = given or secret_of(settings.state / "shared" / f"{settings.env}.secret")
        server = SharedServer(settings.serve.redis_url, f"{settings.name}.{settings.env}", secret)
        kept_s = settings.serve.redis_response_seconds if settings.serve.cache_bytes else 0
        cache = SharedCache(server, deployment_of(project), kept_s) if kept_s else None
        return cls(server, SharedLimits(server), SharedVersions(server, tables, told), cache)

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
            "cache": None
            if self.cache is None
            else {"hits": self.cache.hits, "misses": self.cache.misses, "rejected": self.cache.rejected},
        }


def deployment_of(project: Project) -> str:
    """Return a hash of what decides responses beside the caller, the request and the versions of tables: the project as it is defined, and this program.

    Replicas share responses only with those of the same deployment.
    """
    settings = project.settings
    definitions = [(each.name, getattr(each, "fingerprint", "")) for each in project.graph.definitions]
    declared = [*map(_declared, project.access), *map(_declared, project.metrics)]
    serve = replace(settings.serve, redis_url="", redis_secret="")
    own = [hashlib.sha256(file.read_bytes()).hexdigest() for file in _sources(settings.definitions)]
    program = [hashlib.sha256(file.read_bytes()).hexdigest() for file in _sources(_SERVE)]
    decisive = (version("headwater"), settings.name, settings.env, definitions, declared, repr(serve), own, program)
    return hashlib.sha256(repr(decisive).encode()).hexdigest()


def _declared(value: AccessPolicy | MetricDefinition) -> list[tuple[str, str]]:
    """Return what is declared, without where."""
    return [(each.name, repr(getattr(value, each.name))) for each in fields(value) if each.compare]


def _sources(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))
