"""The schemas of callers: one for all that see the same, made when it is needed first."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from graphql import DocumentNode, GraphQLSchema, build_ast_schema, parse

from pipeline.core.errors import StorageError
from serve.access.authorization import CallerColumns
from serve.access.caller import Caller
from serve.backend import Backend
from serve.graphql.naming import Naming, naming_of
from serve.graphql.scalars import prepare
from serve.graphql.sdl import sdl_of
from serve.graphql.visible import visible

_LOG = logging.getLogger("headwater.serve")
FRESH_S = 5.0
"""How long the columns of a caller's tables are taken as known, in seconds; after that, they are read again while requests go on."""
_MOST_RIGHTS = 1_024
_MOST_TYPES = 20_000
"""The most types of the schemas in memory; of more, the least recently used are made again when they are needed."""
_MOST_TEXT = 100_000
"""The most characters of the documents that are kept parsed for a schema: they take more than a hundred times as many bytes."""


@dataclass
class Api:
    """What callers that see the same can ask for."""

    sdl: str
    naming: Naming
    schema: GraphQLSchema
    digest: str
    """The SHA-256 of the schema."""
    documents: OrderedDict[str, tuple[DocumentNode, int]] = field(default_factory=OrderedDict)
    """Documents that are valid, by their hash, with the length of their text."""
    introspected: OrderedDict[str, dict[str, str]] = field(default_factory=OrderedDict)
    """Parts of the schema that were asked for, as JSON."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    introspecting: threading.Lock = field(default_factory=threading.Lock)

    def known(self, digest: str) -> DocumentNode | None:
        """Return a document that was found to be valid."""
        with self.lock:
            kept = self.documents.get(digest)
            if kept is None:
                return None
            self.documents.move_to_end(digest)
            return kept[0]

    def keep(self, digest: str, document: DocumentNode, length: int) -> None:
        """Keep a document that is valid, whose text has this length."""
        with self.lock:
            self.documents[digest] = (document, length)
            while sum(each for _, each in self.documents.values()) > _MOST_TEXT:
                self.documents.popitem(last=False)


class Schemas:
    """The schema of each caller, by its rights and the columns of the tables. Thread-safe."""

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.monotonic) -> None:
        """Make none yet. `clock` returns seconds."""
        self._backend = backend
        self._clock = clock
        self._by_rights: OrderedDict[str, tuple[float, Api]] = OrderedDict()
        self._by_digest: OrderedDict[str, Api] = OrderedDict()
        self._reading: set[str] = set()
        self._seen: dict[str, dict[str, CallerColumns]] = {}
        self._lock = threading.Lock()
        self._making = threading.Lock()

    def of(self, caller: Caller, rights: str) -> Api:
        """Return what a caller can ask for, where `rights` decides what it sees. It reads the lake when rights are new."""
        with self._lock:
            known = self._by_rights.get(rights)
            is_old = known is not None and self._clock() - known[0] >= FRESH_S and rights not in self._reading
            if is_old:
                self._reading.add(rights)
        if known is None:
            return self._made(caller, rights)
        if is_old:
            threading.Thread(target=self._refresh, args=(caller, rights), name="schema of GraphQL", daemon=True).start()
        return known[1]

    def _refresh(self, caller: Caller, rights: str) -> None:
        try:
            self._made(caller, rights)
        except StorageError as error:
            _LOG.warning("the schema of GraphQL stays as it is: %s", error)
        except Exception:  # noqa: BLE001 - the schema stays as it is, and is read again later
            _LOG.exception("the schema of GraphQL cannot be read again")
        finally:
            with self._lock:
                self._reading.discard(rights)

    def _made(self, caller: Caller, rights: str) -> Api:
        seen = self._seen.setdefault(rights, {})
        naming = naming_of(visible(self._backend, caller, seen))
        sdl = sdl_of(naming)
        api = self._api(naming, sdl, hashlib.sha256(sdl.encode()).hexdigest())
        with self._lock:
            self._by_rights[rights] = (self._clock(), api)
            self._by_rights.move_to_end(rights)
            if len(self._by_rights) > _MOST_RIGHTS:
                old, _ = self._by_rights.popitem(last=False)
                self._seen.pop(old, None)
        return api

    def _api(self, naming: Naming, sdl: str, digest: str) -> Api:
        with self._making:  # a schema of many tables takes seconds, and is made once
            api = self._by_digest.get(digest)
            if api is None:
                # what we generate is valid, and tests check that
                tree = parse(sdl, no_location=True)
                schema = build_ast_schema(tree, assume_valid=True, assume_valid_sdl=True)
                prepare(schema)
                api = self._by_digest[digest] = Api(sdl, naming, schema, digest)
                self._evict()
            else:
                self._by_digest.move_to_end(digest)
            return api

    def _evict(self) -> None:
        while (
            len(self._by_digest) > 1
            and sum(len(each.schema.type_map) for each in self._by_digest.values()) > _MOST_TYPES
        ):
            _, old = self._by_digest.popitem(last=False)
            with self._lock:
                for rights in [each for each, (_, api) in self._by_rights.items() if api is old]:
                    del self._by_rights[rights]
