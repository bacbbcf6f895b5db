"""Credentials by reference: what is written in a definition is a name, and its value is looked up where it is used.

    env:NAME    the environment variable NAME
    file:PATH   the content of a file, without the end of its last line
    aws:NAME    a secret of AWS Secrets Manager; aws:NAME#KEY is one value of a secret that is a JSON object

Any other text is the credential itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.core import secrets_manager
from pipeline.core.errors import SettingsError

_ENVIRONMENT, _FILE = "env:", "file:"


def is_reference(value: str) -> bool:
    """Return whether a text names a credential, and is not one itself."""
    return value.startswith((_ENVIRONMENT, _FILE, secrets_manager.PREFIX))


def secret(value: str, what: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a credential, or the one that a reference names; `what` is its name in errors.

    Raises `SettingsError` if the variable is not set, or if the file or the secret cannot be read, and
    `UnavailableError` if AWS does not answer.
    """
    if value.startswith(secrets_manager.PREFIX):
        return secrets_manager.secret_value(value.removeprefix(secrets_manager.PREFIX), what)
    if value.startswith(_FILE):
        path = value.removeprefix(_FILE)
        try:
            return Path(path).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"the file of {what} cannot be read", got=str(error), do=f"create {path}, or check its permissions"
            ) from error
    if not value.startswith(_ENVIRONMENT):
        return value
    name = value.removeprefix(_ENVIRONMENT)
    found = environment.get(name)
    if not found:
        raise SettingsError(f"the environment variable {name!r} with {what} is not set", do=f"set {name}")
    return found
