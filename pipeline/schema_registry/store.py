"""The tables of the schema registry, in the database of the catalog."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.governance import Catalog
from pipeline.governance.revisions import lock
from pipeline.schema_registry.errors import RegistryError
from pipeline.schema_registry.schemas import Reference, SchemaText

METADATA = sa.MetaData()
"""The tables, as defined by the newest revision of the catalog."""
_SCHEMAS = sa.Table(
    "registry_schemas",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("fingerprint", sa.String, nullable=False, unique=True),
    sa.Column("guid", sa.String, nullable=False, unique=True),
    sa.Column("type", sa.String, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("normalized", sa.Text, nullable=False),
    sa.Column("references_json", sa.Text, nullable=False),
    sa.Column("metadata_json", sa.Text, nullable=False),
    sa.Column("rules_json", sa.Text, nullable=False),
)
_VERSIONS = sa.Table(
    "registry_versions",
    METADATA,
    sa.Column("subject", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("schema_id", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),
)
_SETTINGS = sa.Table(
    "registry_settings",
    METADATA,
    sa.Column("subject", sa.String, primary_key=True),
    sa.Column("compatibility", sa.String),
    sa.Column("mode", sa.String),
)
_LIVE, _DELETED, _GONE = "live", "deleted", "gone"
"""The states of a version; the number of a version that is gone is not used again."""


@dataclass(frozen=True)
class StoredVersion:
    """A version of a subject, with its schema."""

    subject: str
    version: int
    id: int
    schema: SchemaText
    normalized: str
    is_deleted: bool
    is_gone: bool = False


@dataclass(frozen=True)
class RegistrySettings:
    """The settings of a subject; `None` where those of all subjects apply."""

    compatibility: str | None = None
    mode: str | None = None


class RegistryStore:
    """Reads and writes the tables, inside a transaction."""

    def __init__(self, catalog: Catalog, connection: sa.Connection | None = None) -> None:
        """Create the store without opening it."""
        self._catalog = catalog
        self._given = connection

    @contextmanager
    def reading(self) -> Iterator[RegistryStore]:
        """Yield a store in a transaction that only reads."""
        with self._catalog.transaction() as connection:
            yield RegistryStore(self._catalog, connection)

    @contextmanager
    def writing(self) -> Iterator[RegistryStore]:
        """Yield a store in a transaction that excludes all other writers."""
        with self._catalog.transaction() as connection:
            lock(connection)
            yield RegistryStore(self._catalog, connection)

    @property
    def _connection(self) -> sa.Connection:
        assert self._given is not None  # noqa: S101 - only a store in a transaction is used
        return self._given

    def versions(self, subject: str) -> list[StoredVersion]:
        """Return the versions of a subject that are not gone, the oldest first."""
        return [each for each in self._select(_VERSIONS.c.subject == subject) if not each.is_gone]

    def every_version(self) -> list[StoredVersion]:
        """Return the versions of all subjects that are not gone, by subject and version."""
        return [each for each in self._select(sa.true()) if not each.is_gone]

    def _select(self, where: Any) -> list[StoredVersion]:
        joined = _VERSIONS.join(_SCHEMAS, _SCHEMAS.c.id == _VERSIONS.c.schema_id)
        query = sa.select(joined).where(where).order_by(_VERSIONS.c.subject, _VERSIONS.c.version)
        return [_version(row) for row in self._connection.execute(query).mappings()]

    def by_id(self, number: int) -> SchemaText | None:
        """Return the schema with an id."""
        row = self._connection.execute(_SCHEMAS.select().where(_SCHEMAS.c.id == number)).mappings().first()
        return None if row is None else _schema(row)

    def by_guid(self, guid: str) -> SchemaText | None:
        """Return the schema with an identifier of message headers."""
        row = self._connection.execute(_SCHEMAS.select().where(_SCHEMAS.c.guid == guid)).mappings().first()
        return None if row is None else _schema(row)

    def add(self, subject: str, version: int, schema: SchemaText, normalized: str, number: int | None) -> StoredVersion:
        """Add a version; its schema has the id that it had before, otherwise the given or the next one.

        Raises `RegistryError` 42205 if the given id is that of another schema, or the schema or the version has another one.
        """
        known = self._connection.execute(_SCHEMAS.select().where(_SCHEMAS.c.fingerprint == schema.fingerprint)).first()
        if number is not None:
            self._require_free(number, schema, None if known is None else int(known[0]))
        if known is None:
            references = [asdict(reference) for reference in schema.references]
            number = number or 1 + (self._connection.execute(sa.select(sa.func.max(_SCHEMAS.c.id))).scalar() or 0)
            row = {
                "id": number,
                "fingerprint": schema.fingerprint,
                "guid": schema.guid,
                "type": schema.type,
                "text": schema.text,
                "normalized": normalized,
                "references_json": json.dumps(references),
                "metadata_json": json.dumps(schema.metadata),
                "rules_json": json.dumps(schema.rules),
            }
            self._connection.execute(_SCHEMAS.insert().values(row))
        else:
            number = int(known[0])
        taken = self._states(subject)
        if version in taken:
            is_gone = taken[version] == _GONE
            reason = "was deleted permanently, and its number is not used again" if is_gone else "exists already"
            raise RegistryError(42205, f"Version {version} of subject {subject} {reason}")
        row = {"subject": subject, "version": version, "schema_id": number, "state": _LIVE}
        self._connection.execute(_VERSIONS.insert().values(row))
        return StoredVersion(subject, version, number, schema, normalized, is_deleted=False)

    def next_version(self, subject: str) -> int:
        """Return the number of the next version; one of a version that is gone is not used again."""
        return 1 + max(self._states(subject), default=0)

    def _states(self, subject: str) -> dict[int, str]:
        columns = sa.select(_VERSIONS.c.version, _VERSIONS.c.state).where(_VERSIONS.c.subject == subject)
        return {int(version): str(state) for version, state in self._connection.execute(columns)}

    def _require_free(self, number: int, schema: SchemaText, known: int | None) -> None:
        """Raise `RegistryError` if a schema cannot have an id; `known` is the one that it has already."""
        if known not in {None, number}:
            raise RegistryError(42205, f"The schema is registered with the id {known} and cannot have the id {number}")
        other = self.by_id(number)
        if other is not None and other.fingerprint != schema.fingerprint:
            raise RegistryError(42205, f"The id {number} is that of another schema")

    def delete(self, stored: StoredVersion, *, is_permanent: bool) -> None:
        """Delete a version; its schema keeps its id."""
        same = (_VERSIONS.c.subject == stored.subject, _VERSIONS.c.version == stored.version)
        self._connection.execute(_VERSIONS.update().where(*same).values(state=_GONE if is_permanent else _DELETED))

    def references_to(self, subject: str, version: int) -> list[int]:
        """Return the ids of the schemas of live versions that refer to a version."""
        wanted = (subject, version)
        every = [each for each in self.every_version() if not each.is_deleted]
        return sorted({e.id for e in every if wanted in {(r.subject, r.version) for r in e.schema.references}})

    def settings(self, subject: str) -> RegistrySettings:
        """Return the settings of a subject."""
        row = self._connection.execute(_SETTINGS.select().where(_SETTINGS.c.subject == subject)).first()
        return RegistrySettings() if row is None else RegistrySettings(row[1], row[2])

    def set(self, subject: str, *, compatibility: str | None, mode: str | None) -> None:
        """Replace the settings of a subject."""
        self._connection.execute(_SETTINGS.delete().where(_SETTINGS.c.subject == subject))
        if compatibility is not None or mode is not None:
            row = {"subject": subject, "compatibility": compatibility, "mode": mode}
            self._connection.execute(_SETTINGS.insert().values(row))


def _version(row: sa.RowMapping) -> StoredVersion:
    state = row["state"]
    return StoredVersion(
        row["subject"],
        row["version"],
        row["schema_id"],
        _schema(row),
        row["normalized"],
        is_deleted=state != _LIVE,
        is_gone=state == _GONE,
    )


def _schema(row: sa.RowMapping) -> SchemaText:
    references = tuple(Reference(**each) for each in json.loads(row["references_json"]))
    return SchemaText(
        row["text"], row["type"], references, json.loads(row["metadata_json"]), json.loads(row["rules_json"])
    )
