"""A secret that the replicas of a folder share."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_SECRET_BYTES = 32


def secret_of(file: Path) -> bytes:
    """Return the secret in a file, which is made if it does not exist."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        made = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_SECRET_BYTES))
        try:
            os.link(made, file)  # fails if another replica was quicker
        except FileExistsError:
            pass
        finally:
            made.unlink()
    return file.read_bytes()
