"""Keys of the callers of endpoints, in the catalog. A key is shown once; the catalog has only its SHA-256 digest.

A key is `hw_<id>_<secret><check>`: the secret has 256 random bits, so a slow hash would not make it harder to guess, and the
last six characters are a checksum, by which a scanner recognizes a leaked key.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import sqlalchemy as sa

from pipeline.core.errors import RequestError
from pipeline.governance.catalog import METADATA, Catalog

_ALPHABET = string.ascii_letters + string.digits
_ID_LENGTH, _SECRET_LENGTH, _CHECK_LENGTH = 8, 43, 6
_KEY = re.compile(
    rf"hw_([A-Za-z0-9]{{{_ID_LENGTH}}})_([A-Za-z0-9]{{{_SECRET_LENGTH}}})([A-Za-z0-9]{{{_CHECK_LENGTH}}})"
)
SCOPES = ("read", "query", "predict", "write", "operate")
"""What a key may do: read tables and metrics, send SQL, ask models, send rows to sources, and see runs and streams."""
_API_KEYS = sa.Table(
    "api_keys",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("env", sa.String, nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False, unique=True),
    sa.Column("last_four", sa.String, nullable=False),
    sa.Column("roles_json", sa.Text, nullable=False),
    sa.Column("scopes_json", sa.Text, nullable=False),
    sa.Column("claims_json", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
    sa.Column("revoked_at", sa.Float),
    sa.Column("last_used_at", sa.Float),
)


@dataclass(frozen=True)
class CallerKey:
    """What is known of a key. Times are seconds since 1970."""

    id: str
    name: str
    digest: str
    last_four: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    """Each a word of `SCOPES`, optionally with a pattern of names: `read`, `read:orders`, `predict:delay_*`."""
    claims: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None

    def is_valid(self, now: float) -> bool:
        """Return whether it is neither revoked nor expired."""
        return (self.expires_at is None or now < self.expires_at) and (self.revoked_at is None or now < self.revoked_at)

    def state(self, now: float) -> str:
        """Return `valid`, `revoked` or `expired`."""
        if self.is_valid(now):
            return "valid"
        return "revoked" if self.revoked_at is not None and self.revoked_at <= now else "expired"


def digest_of(text: str) -> str:
    """Return the digest of a key, by which the catalog knows it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_key(text: str) -> bool:
    """Return whether a text has the form of a key, and its checksum."""
    match = _KEY.fullmatch(text)
    return match is not None and _check(match[1] + match[2]) == match[3]


class ApiKeys:
    """The keys of an environment. Every error of the catalog is a `StorageError`."""

    def __init__(self, catalog: Catalog, env: str, *, clock: Callable[[], float] = time.time) -> None:
        """Use a catalog; it is not opened yet. `clock` returns seconds since 1970."""
        self._catalog = catalog
        self._env = env
        self._clock = clock

    def create(
        self,
        name: str,
        *,
        roles: Sequence[str] = (),
        scopes: Sequence[str] = ("read",),
        claims: Mapping[str, str | tuple[str, ...]] | None = None,
        expires_in: timedelta | None = None,
    ) -> tuple[str, CallerKey]:
        """Create a key; return its text, which cannot be read again, and what is known of it.

        Raises `RequestError` for an unknown scope, an empty name, and a time in the past.
        """
        if not name.strip():
            raise RequestError("a key needs a name", do="name the application or the person that uses it")
        if expires_in is not None and expires_in <= timedelta(0):
            raise RequestError("a key must expire in the future", got=str(expires_in))
        for scope in scopes:
            require_scope(scope)
        now = self._clock()
        text = _new_key()
        key = CallerKey(
            id=text.split("_")[1],
            name=name.strip(),
            digest=digest_of(text),
            last_four=text[-4:],
            roles=tuple(roles),
            scopes=tuple(scopes),
            claims=dict(claims or {}),
            created_at=now,
            expires_at=None if expires_in is None else now + expires_in.total_seconds(),
        )
        with self._catalog.transaction() as connection:
            connection.execute(_API_KEYS.insert().values(_row(key, self._env)))
        return text, key

    def all(self) -> tuple[CallerKey, ...]:
        """Return all keys, the oldest first, also those that are revoked or expired."""
        rows = sa.select(_API_KEYS).where(_API_KEYS.c.env == self._env).order_by(_API_KEYS.c.created_at, _API_KEYS.c.id)
        with self._catalog.transaction() as connection:
            return tuple(_key(row._mapping) for row in connection.execute(rows))  # noqa: SLF001 - SQLAlchemy's interface

    def get(self, id: str) -> CallerKey:  # noqa: A002 - the field's word
        """Return a key by its id, or by its name if only one valid key has it; raise `RequestError` if there is none."""
        keys = self.all()
        found = [key for key in keys if key.id == id]
        found = found or [key for key in keys if key.name == id and key.is_valid(self._clock())]
        if not found:
            raise RequestError(f"there is no key {id!r}", do="list the keys with `headwater keys ls`")
        if len(found) > 1:
            raise RequestError(f"{len(found)} keys have the name {id!r}", do="pass the id of one")
        return found[0]

    def revoke(self, id: str, *, after: timedelta = timedelta(0)) -> CallerKey:  # noqa: A002 - as in `get`
        """Make a key invalid, after a while if `after` is given; return it. One that is revoked already stays so."""
        key = self.get(id)
        at = self._clock() + after.total_seconds()
        if key.revoked_at is None or key.revoked_at > at:
            with self._catalog.transaction() as connection:
                connection.execute(_API_KEYS.update().where(_API_KEYS.c.id == key.id).values(revoked_at=at))
        return self.get(key.id)

    def rotate(self, id: str, *, grace: timedelta) -> tuple[str, CallerKey]:  # noqa: A002 - as in `get`
        """Create a key like another one, which stays valid for `grace`; return the new text and key."""
        old = self.get(id)
        if not old.is_valid(self._clock()):
            raise RequestError(f"key {old.id} is {old.state(self._clock())}", do="create a new one")
        lasts = None if old.expires_at is None else timedelta(seconds=old.expires_at - old.created_at)
        text, key = self.create(old.name, roles=old.roles, scopes=old.scopes, claims=old.claims, expires_in=lasts)
        self.revoke(old.id, after=grace)
        return text, key

    def note_use(self, times: Mapping[str, float]) -> None:
        """Record when keys, by id, were used last."""
        with self._catalog.transaction() as connection:
            for key_id, at in times.items():
                connection.execute(_API_KEYS.update().where(_API_KEYS.c.id == key_id).values(last_used_at=at))


def require_scope(scope: str) -> None:
    """Raise `RequestError` for an unknown scope."""
    word, colon, pattern = scope.partition(":")
    if word not in SCOPES or (colon and not pattern):
        raise RequestError(
            "unknown scope", got=repr(scope), do=f"use one of {', '.join(SCOPES)}, optionally with names: read:orders"
        )


def _new_key() -> str:
    key_id, secret = (
        "".join(secrets.choice(_ALPHABET) for _ in range(length)) for length in (_ID_LENGTH, _SECRET_LENGTH)
    )
    return f"hw_{key_id}_{secret}{_check(key_id + secret)}"


def _check(text: str) -> str:
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECK_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits += _ALPHABET[digit]
    return digits


def _row(key: CallerKey, env: str) -> dict[str, object]:
    return {
        "id": key.id,
        "env": env,
        "name": key.name,
        "digest": key.digest,
        "last_four": key.last_four,
        "roles_json": json.dumps(key.roles),
        "scopes_json": json.dumps(key.scopes),
        "claims_json": json.dumps(dict(key.claims)),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }


def _key(row: sa.RowMapping) -> CallerKey:
    claims = {n: v if isinstance(v, str) else tuple(v) for n, v in json.loads(row["claims_json"]).items()}
    same = {
        name: row[name]
        for name in ("id", "name", "digest", "last_four", "created_at", "expires_at", "revoked_at", "last_used_at")
    }
    return CallerKey(
        roles=tuple(json.loads(row["roles_json"])), scopes=tuple(json.loads(row["scopes_json"])), claims=claims, **same
    )
