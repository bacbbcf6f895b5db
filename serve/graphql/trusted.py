"""Trusted documents: those in a folder, found by the SHA-256 of their text. With such a folder, no others are run."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from serve.graphql.requests import GraphqlRequest
from serve.graphql.scan import require_bounds
from serve.http_errors import ForbiddenError, HttpError, UnknownError
from serve.queries.values import shown

_LOG = logging.getLogger("headwater.serve")
_EVERY_S = 1.0
_PREFIX = "sha256:"


class TrustedDocuments:
    """The documents of a folder, read again when one is not known. Without a folder, every document may be run. Thread-safe."""

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Read nothing yet. `clock` returns seconds."""
        self._folder = folder
        self._clock = clock
        self._documents: Mapping[str, str] = {}
        self._read_at: float | None = None
        self._lock = threading.Lock()

    def resolved(self, request: GraphqlRequest) -> GraphqlRequest:
        """Return a request with the document that it may run.

        Raises `UnknownError` for an identifier of none, and `ForbiddenError` for a document that is not in the folder.
        """
        identifier = request.document_id
        if self._folder is None:
            if request.document is None:
                raise UnknownError(f"there is no document {shown(str(identifier))}", do='send its text as "query"')
            return request
        digest = (
            _digest_of(identifier)
            if request.document is None
            else hashlib.sha256(request.document.encode()).hexdigest()
        )
        document = self._find(digest)
        if document is None and request.document is None:
            raise UnknownError(
                f"there is no document {shown(str(identifier))}", do="add it to the folder of trusted documents"
            )
        if document is None:
            raise ForbiddenError(
                "the document is not one of the trusted ones", do="add it to the folder of trusted documents"
            )
        return replace(request, document=document)

    def _find(self, digest: str) -> str | None:
        with self._lock:
            is_old = self._read_at is None or self._clock() - self._read_at > _EVERY_S
            if digest not in self._documents and is_old:
                self._documents, self._read_at = self._read(), self._clock()
            return self._documents.get(digest)

    def _read(self) -> Mapping[str, str]:
        assert self._folder is not None  # noqa: S101 - only read if there is one
        found: dict[str, str] = {}
        for file in sorted(self._folder.glob("*.graphql")):
            try:
                text = file.read_bytes().decode()
                require_bounds(text)
            except (OSError, UnicodeDecodeError, HttpError) as error:
                _LOG.warning("the trusted document %s cannot be used: %s", file.name, error)
                continue
            found[hashlib.sha256(text.encode()).hexdigest()] = text
        return found


def _digest_of(identifier: str | None) -> str:
    return (identifier or "").removeprefix(_PREFIX).lower()
