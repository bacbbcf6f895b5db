"""The options of a store or a catalog, in which credentials are references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from pipeline.core.credentials import is_reference, secret
from pipeline.core.errors import DefinitionError

_SECRET_PARTS = (
    "secret",
    "access_key",
    "access-key",
    "account_key",
    "account-key",
    "authorization",
    "connection_string",
    "connection-string",
    "credential",
    "password",
    "sas",
    "service_account_key",
    "signature",
    "token",
)


def references(options: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the options in order; raise `DefinitionError` for a credential that is written out."""
    for name, value in options.items():
        if not _refers(value) and (_is_secret(name) or ("://" in value and urlsplit(value).password)):
            raise DefinitionError(
                f"the option {name!r} contains a credential", do='pass a reference: "env:NAME" or "file:PATH"'
            )
    return tuple(sorted(options.items()))


def resolved(options: Sequence[tuple[str, str]], *, only_secrets: bool = False) -> dict[str, str]:
    """Return the options with the values of references; raise `SettingsError` for one that leads nowhere."""
    values = {name: secret(value, f"the option {name!r}") for name, value in options if _refers(value)}
    return values if only_secrets else {**dict(options), **values}


def _refers(value: str) -> bool:
    """Return whether a value is a reference; `file://` is the URI of a warehouse."""
    return is_reference(value) and not value.startswith("file://")


def _is_secret(name: str) -> bool:
    plain = name.lower()
    return any(part in plain for part in _SECRET_PARTS) and not plain.endswith(("uri", "url", "_id", "-id"))
