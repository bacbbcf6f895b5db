"""Addresses of files that are valid for a while without a key: the server that made one signed it."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlencode

from serve.access.caller import Caller
from serve.access.secret_file import secret_of

VALID_S = 900.0
"""How long an address is valid."""
_MOST_QUERY = 1_000


class SignedUrls:
    """Signs addresses below a path, and checks them. Replicas with the same folder accept each other's. Thread-safe."""

    def __init__(self, path: str, secret: Path, clock: Callable[[], float] = time.time) -> None:
        """Use the secret of a file, which is made at the first use. `clock` returns seconds since 1970."""
        self._path = path.rstrip("/") + "/"
        self._file = secret
        self._clock = clock
        self._secret = b""
        self._lock = threading.Lock()

    def sign(self, path: str, caller: Caller) -> tuple[str, int]:
        """Return a path with the parameters by which it is valid, and when that ends, in seconds since 1970."""
        until = int(self._clock() + VALID_S)
        signature = self._signature(path, caller.id, str(until))
        return f"{path}?{urlencode({'caller': caller.id, 'until': until, 'signature': signature})}", until

    def caller(self, path: str, query: str) -> Caller | None:
        """Return who was given an address, with no rights but to read it; `None` if it is not signed, or not valid any more."""
        if not path.startswith(self._path) or len(query) > _MOST_QUERY:
            return None
        words = {name: values[0] for name, values in parse_qs(query).items() if len(values) == 1}
        caller, until, given = (words.get(name, "") for name in ("caller", "until", "signature"))
        if not (until.isascii() and until.isdecimal()) or int(until[:20]) < self._clock():
            return None
        if not hmac.compare_digest(self._signature(path, caller, until).encode(), given.encode("utf-8", "replace")):
            return None
        return Caller(caller, "key", "a signed address")

    def _signature(self, path: str, caller: str, until: str) -> str:
        text = f"{path}\n{caller}\n{until}".encode("utf-8", "replace")
        return hmac.new(self._key(), text, hashlib.sha256).hexdigest()

    def _key(self) -> bytes:
        with self._lock:
            if not self._secret:
                self._secret = secret_of(self._file)
            return self._secret
