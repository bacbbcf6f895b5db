"""Verifies the key of an SSH server: an unknown or changed key is an error that shows its fingerprint."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import paramiko

from pipeline.core.errors import SourceError

ANY = "any"
_DEFAULT_PORT = "22"


class KnownHostKeys(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    """Accepts the key with a declared fingerprint, or a key in a file of known hosts (default: `~/.ssh/known_hosts`)."""

    def __init__(self, host: str, fingerprint: str = "", known_hosts: str = "") -> None:
        """Store what is accepted; the fingerprint `any` accepts every key."""
        address, _, port = host.partition(":")
        self._name = address if port in {"", _DEFAULT_PORT} else f"[{address}]:{port}"
        self._fingerprint = fingerprint
        self._known_hosts = Path(known_hosts or "~/.ssh/known_hosts").expanduser()

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        """Return if the key is accepted; raise `SourceError` for another one."""
        del client, hostname
        fingerprint = fingerprint_of(key)
        if self._fingerprint in {ANY, fingerprint}:
            return
        known = self._known() if not self._fingerprint else {}
        if known.get(key.get_name()) == key:
            return
        problem = "differs from the known one" if known or self._fingerprint else "is not known"
        raise SourceError(
            f"the host key of the SFTP server {self._name} {problem}",
            got=fingerprint,
            do=f'if it is the right one, pass options={{"host_key": "{fingerprint}"}} or add it to {self._known_hosts}',
        )

    def _known(self) -> dict[str, Any]:
        if not self._known_hosts.is_file():
            return {}
        found = paramiko.HostKeys(str(self._known_hosts)).lookup(self._name)
        return {} if found is None else dict(found)


def fingerprint_of(key: Any) -> str:
    """Return the fingerprint of a key, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
