"""The operations of the schema registry, with the rules of Confluent's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.governance import Catalog
from pipeline.schema_registry.compatibility import LEVELS, problems_with, versions_to_check
from pipeline.schema_registry.errors import (
    RegistryError,
    schema_not_found,
    subject_not_found,
    version_not_found,
)
from pipeline.schema_registry.parsing import parse
from pipeline.schema_registry.schemas import ParsedSchema, Reference, SchemaText
from pipeline.schema_registry.store import RegistryStore, StoredVersion

Mode = Literal["READWRITE", "READONLY", "READONLY_OVERRIDE", "IMPORT", "FORWARD"]
MODES: tuple[Mode, ...] = ("READWRITE", "READONLY", "READONLY_OVERRIDE", "IMPORT", "FORWARD")
GLOBAL = ""
"""The subject of the settings of all subjects that have none of their own."""
_END = 1 << 31
_DEFAULT_LEVEL, _DEFAULT_MODE = "BACKWARD", "READWRITE"


@dataclass(frozen=True)
class RegisteredSchema:
    """A version of a subject."""

    subject: str
    version: int
    id: int
    schema: SchemaText
    is_deleted: bool = False


class SchemaRegistry:
    """Subjects and their versions, in the database of a catalog. All changes are transactions of that database."""

    def __init__(self, catalog: Catalog) -> None:
        """Create the registry without opening it."""
        self._store = RegistryStore(catalog)

    def register(
        self,
        subject: str,
        schema: SchemaText,
        *,
        normalize: bool = False,
        id: int | None = None,  # noqa: A002 - the name in requests
        version: int | None = None,
    ) -> RegisteredSchema:
        """Register a version of a subject; return it, or the version that has this schema already.

        Raises `RegistryError`: 42201 for an invalid schema, 40901 for an incompatible one, 42205 if the mode does not allow
        it, or an id or a version is taken. An id can be given in the mode IMPORT only, and there a version before others too.
        """
        _require_subject(subject)
        if not all(each is None or 0 < each < _END for each in (id, version)):
            raise RegistryError(42202, f"The id {id} or the version {version} is not a number above 0")
        with self._store.writing() as store:
            mode = self._mode_of(store, subject)
            if mode in {"READONLY", "READONLY_OVERRIDE", "FORWARD"} or (id is not None) != (mode == "IMPORT"):
                raise RegistryError(42205, f"Subject {subject} is in mode {mode}, which does not allow this")
            text, parsed = self._parsed(store, schema, normalize=normalize)
            versions = store.versions(subject)
            same = _same(versions, text, parsed, normalize=normalize)
            if same is not None and not same.is_deleted:
                if (id or same.id, version or same.version) != (same.id, same.version):
                    at = f"with the id {same.id} as version {same.version}"
                    raise RegistryError(42205, f"Subject {subject} has this schema already, {at}")
                return _registered(same)
            number = store.next_version(subject)
            if mode != "IMPORT":
                if version not in {None, number}:
                    raise RegistryError(42205, f"The next version of subject {subject} is {number}, not {version}")
                self._require_compatible(store, subject, parsed, versions)
            return _registered(store.add(subject, version or number, text, parsed.normalized, id))

    def lookup(
        self, subject: str, schema: SchemaText, *, normalize: bool = False, is_deleted: bool = False
    ) -> RegisteredSchema:
        """Return the version of a subject that has a schema; raise `RegistryError` 40401 or 40403."""
        with self._store.reading() as store:
            versions = self._require_versions(store, subject, is_deleted=is_deleted)
            text, parsed = self._parsed(store, schema, normalize=normalize)
            found = _same(versions, text, parsed, normalize=normalize)
        if found is None:
            raise schema_not_found()
        return _registered(found)

    def has(self, subject: str, schema: SchemaText) -> bool:
        """Return whether a version of a subject has a schema."""
        try:
            self.lookup(subject, schema)
        except RegistryError:
            return False
        return True

    def schema(self, number: int) -> SchemaText:
        """Return the schema with an id; raise `RegistryError` 40403."""
        with self._store.reading() as store:
            found = store.by_id(number)
        if found is None:
            raise schema_not_found()
        return found

    def schema_of_guid(self, guid: str) -> SchemaText:
        """Return the schema with an identifier of message headers; raise `RegistryError` 40403."""
        with self._store.reading() as store:
            found = store.by_guid(guid)
        if found is None:
            raise schema_not_found()
        return found

    def subjects(self, prefix: str = "", *, is_deleted: bool = False, only_deleted: bool = False) -> list[str]:
        """Return the subjects that have versions, in alphabetical order."""
        with self._store.reading() as store:
            every = store.every_version()
        live = {each.subject for each in every if not each.is_deleted}
        known = {each.subject for each in every} if is_deleted or only_deleted else live
        chosen = known - live if only_deleted else known
        return sorted(subject for subject in chosen if subject.startswith(prefix))

    def versions(self, subject: str, *, is_deleted: bool = False, only_deleted: bool = False) -> list[RegisteredSchema]:
        """Return the versions of a subject, the oldest first; raise `RegistryError` 40401."""
        with self._store.reading() as store:
            versions = self._require_versions(store, subject, is_deleted=is_deleted or only_deleted)
        return [_registered(each) for each in versions if each.is_deleted or not only_deleted]

    def version(self, subject: str, version: int | Literal["latest"], *, is_deleted: bool = False) -> RegisteredSchema:
        """Return a version of a subject; raise `RegistryError` 40401 or 40402."""
        versions = self.versions(subject, is_deleted=is_deleted)
        if version == "latest":
            return versions[-1]
        found = next((each for each in versions if each.version == version), None)
        if found is None:
            raise version_not_found(version)
        return found

    def uses_of(self, number: int, *, is_deleted: bool = False) -> list[RegisteredSchema]:
        """Return the versions that have the schema with an id; raise `RegistryError` 40403."""
        with self._store.reading() as store:
            if store.by_id(number) is None:
                raise schema_not_found()
            every = store.every_version()
        return [_registered(each) for each in every if each.id == number and (is_deleted or not each.is_deleted)]

    def referenced_by(self, subject: str, version: int | Literal["latest"]) -> list[int]:
        """Return the ids of the schemas that refer to a version of a subject."""
        found = self.version(subject, version, is_deleted=True)
        with self._store.reading() as store:
            return store.references_to(found.subject, found.version)

    def with_metadata(
        self, subject: str, properties: Mapping[str, str], *, is_deleted: bool = False
    ) -> RegisteredSchema:
        """Return the newest version whose metadata has these properties; raise `RegistryError` 40401 or 40403."""
        for each in reversed(self.versions(subject, is_deleted=is_deleted)):
            known = (each.schema.metadata or {}).get("properties") or {}
            if properties.items() <= known.items():
                return each
        raise schema_not_found()

    def delete_subject(self, subject: str, *, is_permanent: bool = False) -> list[int]:
        """Delete a subject, and return its versions; permanently only if it is deleted already (40405)."""
        with self._store.writing() as store:
            versions = self._require_versions(store, subject, is_deleted=True)
            live = [each.version for each in versions if not each.is_deleted]
            if is_permanent and live:
                raise RegistryError(
                    40405, f"Subject '{subject}' was not deleted first before being permanently deleted"
                )
            if not is_permanent and not live:
                raise RegistryError(
                    40404, f"Subject '{subject}' was soft deleted. Set permanent=true to delete permanently"
                )
            chosen = [each for each in versions if is_permanent or not each.is_deleted]
            for each in chosen:
                self._delete(store, each, is_permanent=is_permanent)
            store.set(subject, compatibility=None, mode=None)
        return [each.version for each in chosen]

    def delete_version(self, subject: str, version: int | Literal["latest"], *, is_permanent: bool = False) -> int:
        """Delete a version, and return its number; permanently only if it is deleted already (40407)."""
        with self._store.writing() as store:
            versions = self._require_versions(store, subject, is_deleted=is_permanent or version != "latest")
            found = versions[-1] if version == "latest" else next((v for v in versions if v.version == version), None)
            if found is None:
                raise version_not_found(version)
            if found.is_deleted and not is_permanent:
                raise RegistryError(
                    40406,
                    f"Subject '{subject}' Version {found.version} was soft deleted. Set permanent=true to delete permanently",
                )
            if is_permanent and not found.is_deleted:
                raise RegistryError(
                    40407,
                    f"Subject '{subject}' Version {found.version} was not deleted first before being permanently deleted",
                )
            self._delete(store, found, is_permanent=is_permanent)
        return found.version

    def problems(
        self,
        subject: str,
        schema: SchemaText,
        *,
        version: int | Literal["latest"] | None = None,
        normalize: bool = False,
    ) -> list[str]:
        """Return why a schema is not compatible with a version, or with all that the level of the subject names."""
        with self._store.reading() as store:
            versions = [each for each in store.versions(subject) if not each.is_deleted]
            if version is not None:
                known = self._require_versions(store, subject)
                chosen = [each for each in known if version in {"latest", each.version}]
                if not chosen:
                    raise version_not_found(version)
                versions = chosen[-1:]
            _, parsed = self._parsed(store, schema, normalize=normalize)
            level = self._level_of(store, subject)
            if version is None:
                return self._problems(store, level, parsed, versions)
            return self._problems(store, level.removesuffix("_TRANSITIVE"), parsed, versions)

    def level(self, subject: str = GLOBAL, *, is_own: bool = False) -> str:
        """Return the compatibility of a subject; with `is_own`, raise `RegistryError` 40408 if it has none of its own."""
        with self._store.reading() as store:
            own = store.settings(subject).compatibility
            if own is None and is_own and subject != GLOBAL:
                raise RegistryError(40408, f"Subject '{subject}' does not have subject-level compatibility configured")
            return own or self._level_of(store, subject)

    def set_level(self, subject: str, level: str | None) -> None:
        """Set the compatibility of a subject, or of all; `None` removes it. Raises `RegistryError` 42203."""
        if level is not None and level not in LEVELS:
            raise RegistryError(42203, f"Invalid compatibility level. Valid values are {', '.join(LEVELS)}")
        with self._store.writing() as store:
            store.set(subject, compatibility=level, mode=store.settings(subject).mode)

    def mode(self, subject: str = GLOBAL, *, is_own: bool = False) -> str:
        """Return the mode of a subject; with `is_own`, raise `RegistryError` 40409 if it has none of its own."""
        with self._store.reading() as store:
            own = store.settings(subject).mode
            if own is None and is_own and subject != GLOBAL:
                raise RegistryError(40409, f"Subject '{subject}' does not have subject-level mode configured")
            return own or self._mode_of(store, subject)

    def set_mode(self, subject: str, mode: str | None, *, is_forced: bool = False) -> None:
        """Set the mode of a subject, or of all; `None` removes it. IMPORT needs an empty subject, or `is_forced` (42205)."""
        if mode is not None and mode not in MODES:
            raise RegistryError(42204, f"Invalid mode. Valid values are {', '.join(MODES)}")
        with self._store.writing() as store:
            used = [each for each in store.every_version() if subject in {GLOBAL, each.subject} and not each.is_deleted]
            if mode == "IMPORT" and used and not is_forced:
                raise RegistryError(42205, "Cannot import since found existing subjects")
            store.set(subject, compatibility=store.settings(subject).compatibility, mode=mode)

    def parsed(self, registered: RegisteredSchema) -> ParsedSchema:
        """Parse the schema of a version, to compare it."""
        with self._store.reading() as store:
            return self._parsed(store, registered.schema)[1]

    def serialized(self, schema: SchemaText) -> str:
        """Return the Base64 of the file descriptor of a registered Protobuf schema."""
        from pipeline.schema_registry.protobuf_schemas import ProtobufSchema  # noqa: PLC0415 - an extra

        with self._store.reading() as store:
            _, parsed = self._parsed(store, schema)
        if not isinstance(parsed, ProtobufSchema):
            raise RegistryError(42201, "Only Protobuf schemas can be serialized")
        return parsed.serialized

    def _require_versions(self, store: RegistryStore, subject: str, *, is_deleted: bool = False) -> list[StoredVersion]:
        versions = [each for each in store.versions(subject) if is_deleted or not each.is_deleted]
        if not versions:
            raise subject_not_found(subject)
        return versions

    def _delete(self, store: RegistryStore, stored: StoredVersion, *, is_permanent: bool) -> None:
        if store.references_to(stored.subject, stored.version):
            raise RegistryError(
                42206, f"One or more references exist to the schema {stored.subject} version {stored.version}"
            )
        store.delete(stored, is_permanent=is_permanent)

    def _require_compatible(
        self, store: RegistryStore, subject: str, parsed: ParsedSchema, versions: Sequence[StoredVersion]
    ) -> None:
        level = self._level_of(store, subject)
        problems = self._problems(store, level, parsed, [each for each in versions if not each.is_deleted])
        if problems:
            raise RegistryError(
                40901,
                f'Schema being registered is incompatible with an earlier schema for subject "{subject}", '
                f"details: {problems}, compatibility: {level}",
            )

    def _problems(
        self, store: RegistryStore, level: str, parsed: ParsedSchema, versions: Sequence[StoredVersion]
    ) -> list[str]:
        earlier = [(each.version, self._parsed(store, each.schema)[1]) for each in versions_to_check(level, versions)]
        return problems_with(level, parsed, earlier)

    def _parsed(
        self, store: RegistryStore, schema: SchemaText, *, normalize: bool = False
    ) -> tuple[SchemaText, ParsedSchema]:
        """Parse a schema, and return it with the text that identifies it."""
        parsed = parse(schema, _resolver(store))
        return replace(schema, text=parsed.normalized if normalize else parsed.text), parsed

    def _level_of(self, store: RegistryStore, subject: str) -> str:
        return store.settings(subject).compatibility or store.settings(GLOBAL).compatibility or _DEFAULT_LEVEL

    def _mode_of(self, store: RegistryStore, subject: str) -> str:
        everywhere = store.settings(GLOBAL).mode or _DEFAULT_MODE
        return everywhere if everywhere == "READONLY_OVERRIDE" else store.settings(subject).mode or everywhere


def _resolver(store: RegistryStore) -> Callable[[Reference], SchemaText]:
    def resolve(reference: Reference) -> SchemaText:
        found = next((each for each in store.versions(reference.subject) if each.version == reference.version), None)
        if found is None:
            raise RegistryError(
                42201,
                f"Invalid schema: the reference {reference.name!r} to version {reference.version} of {reference.subject!r} does not exist",
            )
        return found.schema

    return resolve


def _same(
    versions: Sequence[StoredVersion], text: SchemaText, parsed: ParsedSchema, *, normalize: bool
) -> StoredVersion | None:
    """Return the newest version with a schema, one that is not deleted before others."""
    found = [
        each
        for each in versions
        if each.schema.fingerprint == text.fingerprint
        or (normalize and each.normalized == parsed.normalized and each.schema.references == text.references)
    ]
    return max(found, key=lambda each: (not each.is_deleted, each.version), default=None)


def _registered(stored: StoredVersion) -> RegisteredSchema:
    return RegisteredSchema(stored.subject, stored.version, stored.id, stored.schema, stored.is_deleted)


def _require_subject(subject: str) -> None:
    if not subject or subject.startswith(":.") or any(ord(letter) < ord(" ") for letter in subject):
        raise RegistryError(42208, f"Invalid subject: {subject!r}; contexts are not supported")
