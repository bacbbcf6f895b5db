"""Errors of the schema registry, with the codes that clients of Confluent's registry know."""

from __future__ import annotations

from pipeline.core.errors import StopError


class RegistryError(StopError):
    """A request to the schema registry cannot be met. `code` begins with the HTTP status."""

    def __init__(self, code: int, problem: str) -> None:
        """Store the code and the message."""
        super().__init__(problem)
        self.code = code

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(str(self.code)[:3])

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the code and the message."""
        return RegistryError, (self.code, self.problem)


def subject_not_found(subject: str) -> RegistryError:
    """Return the error for a subject that does not exist."""
    return RegistryError(40401, f"Subject '{subject}' not found.")


def version_not_found(version: object) -> RegistryError:
    """Return the error for a version that does not exist."""
    return RegistryError(40402, f"Version {version} not found.")


def schema_not_found() -> RegistryError:
    """Return the error for a schema that is not registered."""
    return RegistryError(40403, "Schema not found")


def invalid_schema(reason: str) -> RegistryError:
    """Return the error for a text that is not a schema of its type."""
    return RegistryError(42201, f"Invalid schema: {reason}")
