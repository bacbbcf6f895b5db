"""Sessions of people who signed in to the pages of a server, in the catalog: by the SHA-256 of their tokens, for all replicas."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from pipeline.governance.catalog import METADATA, Catalog

_SESSIONS = sa.Table(
    "sessions",
    METADATA,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("env", sa.String, nullable=False),
    sa.Column("key_id", sa.String, nullable=False),
    sa.Column("caller_json", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("last_seen_at", sa.Float, nullable=False),
)


@dataclass(frozen=True)
class StoredSession:
    """What is known of a session. Times are seconds since 1970."""

    digest: str
    key_id: str
    """The key by which its user signed in; empty if that was the token of an identity provider."""
    caller_json: str
    """In that case, what the token said of the user; empty otherwise."""
    created_at: float
    expires_at: float
    last_seen_at: float

    def is_valid(self, now: float, idle_s: float) -> bool:
        """Return whether it has neither expired nor been idle for too long."""
        return now < self.expires_at and now - self.last_seen_at < idle_s


class SessionStore:
    """The sessions of an environment. Every error of the catalog is a `StorageError`."""

    def __init__(self, catalog: Catalog, env: str, *, clock: Callable[[], float] = time.time) -> None:
        """Use a catalog; it is not opened yet. `clock` returns seconds since 1970."""
        self._catalog = catalog
        self._env = env
        self._clock = clock

    def begin(self, session: StoredSession, idle_s: float) -> None:
        """Store a session, and remove those of the environment that have ended, or were idle for longer than `idle_s`."""
        now, table = self._clock(), _SESSIONS.c
        has_ended = sa.or_(table.expires_at <= now, table.last_seen_at <= now - idle_s)
        with self._catalog.transaction() as connection:
            connection.execute(_SESSIONS.delete().where(table.env == self._env, has_ended))
            connection.execute(_SESSIONS.insert().values(env=self._env, **asdict(session)))

    def find(self, digest: str) -> StoredSession | None:
        """Return a session, which may not be valid any more."""
        table = _SESSIONS.c
        wanted = sa.select(_SESSIONS).where(table.env == self._env, table.digest == digest)
        with self._catalog.transaction() as connection:
            row = connection.execute(wanted).mappings().first()
        return None if row is None else StoredSession(**{name: value for name, value in row.items() if name != "env"})

    def note_seen(self, digest: str, at: float) -> None:
        """Record when a session was used last."""
        with self._catalog.transaction() as connection:
            connection.execute(_SESSIONS.update().where(_SESSIONS.c.digest == digest).values(last_seen_at=at))

    def end(self, digest: str) -> None:
        """Remove a session; nothing is done if there is none."""
        with self._catalog.transaction() as connection:
            connection.execute(_SESSIONS.delete().where(_SESSIONS.c.digest == digest))
