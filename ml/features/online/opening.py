"""The online store of a URL."""

from __future__ import annotations

from pathlib import Path

from ml.features.online.sqlite_store import SqliteStore
from ml.features.online.store import FeatureStore
from pipeline.core.errors import SettingsError

_SQLITE = "sqlite:///"


def open_store(url: str, project: str, env: str) -> FeatureStore:
    """Return the online store of a URL, for a project's environment.

    Raises `SettingsError` for a URL of another system.
    """
    namespace = f"{project}.{env}"
    if url == f"{_SQLITE}:memory:":
        raise SettingsError(
            "the online store cannot be in memory, because other processes read it", do=f"use {_SQLITE}FILE"
        )
    if url.startswith(_SQLITE):
        return SqliteStore(Path(url.removeprefix(_SQLITE)), namespace)
    if url.startswith(("redis://", "rediss://", "unix://")):
        from ml.features.online.redis_store import RedisStore  # noqa: PLC0415 - an extra

        return RedisStore(url, namespace)
    scheme = url.partition("://")[0]
    raise SettingsError(
        "there is no online store of this kind",
        got=f"online = {scheme}://…",
        do="use sqlite:///FILE, or redis://HOST:PORT/DATABASE for Redis or Valkey",
    )
