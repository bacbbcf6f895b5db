"""Collections of MongoDB.

Delivery: with a cursor field, each document once for each value of it, if it is written within the lag; without one,
the documents of the collection, read by each run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from pipeline.connectors.arrow import ArrowReader
from pipeline.connectors.contract import shift_positions, undeclared_names
from pipeline.connectors.databases import connecting
from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.cursor_values import Lag, NullCursors
from pipeline.connectors.databases.deletes import KeyComparison, deletes_of
from pipeline.connectors.databases.mongodb.deletes import deleted_ids, vanished_lines
from pipeline.connectors.databases.mongodb.documents import lines_of, single_documents, written
from pipeline.connectors.databases.mongodb.planning import (
    CollectionOptions,
    CollectionPlanning,
    DocumentRange,
    Filter,
    hash_of,
    of_text,
    to_text,
)
from pipeline.connectors.files.csv.reader import Dialect
from pipeline.connectors.files.json import reader as json_reader
from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.clock import Clock, now
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import DefinitionError, Place, SourceError, SourceUnavailableError
from pipeline.core.event_time import parse_duration
from pipeline.core.extras import imports_of
from pipeline.core.findings import Finding, FindingState
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION, ReadResult, TableRows
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.engine import connect

_SAMPLED = 1000
_CONNECTS_WITHIN_MS = 10_000
_PERMANENT_CODES = frozenset({13, 18, 8000})
"""Unauthorized, and failed authentication."""


@dataclass(frozen=True)
class Mongodb(ArrowReader):
    """A collection of MongoDB. Create it with `mongodb`."""

    address: DatabaseAddress
    options: CollectionOptions

    @property
    def fingerprint(self) -> str:
        """A hash of the options that determine the rows; the server is not part of it, and the lag neither."""
        policy = () if self.new_columns == "freeze" else (self.new_columns,)
        deletes = self.options.deletes
        marks = () if deletes is None else ("deletes", deletes.when, deletes.every is not None)
        return fingerprint("mongodb", replace(self.options, lag=None), *policy, *marks)

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the documents that are new since a cursor, ordered by its value and `_id`."""
        return self._planned(cursor, bound, None)

    def _planned(self, cursor: Cursor | None, bound: Bound, comparison: KeyComparison | None) -> ReadPlan:
        def plan() -> ReadPlan:
            with self._collection() as documents:
                planning = CollectionPlanning(documents, self.address.public(), self.options, comparison)
                return planning.full(cursor) if self.options.cursor is None else planning.since(cursor, bound)

        return connecting.connecting(self.address, plan)

    def schema(self, source_object: SourceObject) -> Schema:
        """Infer the columns from the first documents; raise `SourceError` if there are none."""
        lines = self._first_lines(DocumentRange.of(source_object.stamp), _SAMPLED)
        with written(lines) as path, connect() as con:
            return json_reader.infer(con, path, Place(source_object.uri))

    def first_documents(self, most: int) -> pa.Table:
        """Return some documents with inferred types, for discovery; raise `SourceError` if there are none."""
        place = Place(f"{self.address.public()}/{self.options.collection}")
        with written(self._first_lines(DocumentRange({}), most)) as path, connect() as con:
            schema = json_reader.infer(con, path, place)
            return json_reader.read(con, path, schema, place, Dialect()).rows.drop_columns([POSITION])

    def _first_lines(self, wanted: DocumentRange, most: int) -> list[str]:
        """Return some documents of a range, none of which is marked."""
        if wanted.vanished is not None:
            return vanished_lines(wanted.vanished)
        marks: frozenset[bytes] | None = None if self.options.deletes is None else frozenset()

        def read() -> list[str]:
            with self._collection() as documents, self._errors():
                batches = documents.find_raw_batches(wanted.filter, limit=most)
                return [each for raw in batches for each in lines_of(raw, marks)]

        return connecting.connecting(self.address, read)

    def beyond(self, split: SourceSplit, schema: Schema) -> Schema:
        """Return the fields of a split's documents that are not in the contract."""
        if DocumentRange.of(split.source_object.stamp).vanished is not None:
            return Schema(())
        inferred = self.schema(split.source_object)
        return inferred.select(undeclared_names(schema, inferred.names))

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the accepted and the rejected documents; a missing field is null."""
        lines = [line for batch in self._lines(split) for line in batch]
        with written(lines) as path, connect() as con:
            dialect = Dialect(new_columns=self.new_columns)
            result = json_reader.read(con, path, schema, Place(split.source_object.uri), dialect)
        return shift_positions(result, split.first - 1)

    def batches(self, split: SourceSplit) -> Iterator[pa.RecordBatch]:
        """Yield the documents of a split as JSON text."""
        for lines in self._lines(split):
            yield pa.record_batch([pa.array(lines, pa.string())], ["document"])

    def check(self) -> Sequence[Finding]:
        """Check that the collection can be read; raise `SourceError` if not."""
        with self._collection() as documents, self._errors():
            documents.find_one(self._condition() or {}, {"_id": 1})
        return (Finding(self.options.collection, FindingState.OK, "can be read"),)

    def _lines(self, split: SourceSplit) -> Iterator[list[str]]:
        wanted = DocumentRange.of(split.source_object.stamp)
        if wanted.vanished is not None:
            yield vanished_lines(wanted.vanished)
            return
        order = [(name, 1) for name in wanted.order]
        planned = None if wanted.hashes is None else set(wanted.hashes)
        with self._collection() as documents:

            def begin() -> tuple[frozenset[bytes] | None, list[bytes], Iterator[bytes]]:
                """Return the marks, and the first batch with the others: a failure after that is one of the split."""
                with self._errors():
                    marks = self._marks(documents, wanted.filter)
                    batches = iter(documents.find_raw_batches(wanted.filter, sort=order))
                    return marks, list(itertools.islice(batches, 1)), batches

            marks, first, others = connecting.connecting(self.address, begin)
            with self._errors():
                for raw in itertools.chain(first, others):
                    yield lines_of(raw if planned is None else _only(raw, planned, wanted.order[0]), marks)

    def _marks(self, documents: Any, wanted: Filter) -> frozenset[bytes] | None:
        """Return which documents of a range are marked as deleted; `None` if none has a mark."""
        condition = self._condition()
        if condition is None:
            return None if self.options.deletes is None else frozenset()
        both = {"$and": [wanted, condition]} if wanted else condition
        return deleted_ids(documents.find_raw_batches(both, {"_id": 1}), Place(self.address.public()))

    def _condition(self) -> Filter | None:
        deletes = self.options.deletes
        return dict(of_text(deletes.when)) if deletes is not None and deletes.when else None

    @contextmanager
    def _collection(self) -> Iterator[Any]:
        with _connected(self.address) as database:
            yield database[self.options.collection]

    def _errors(self) -> AbstractContextManager[None]:
        return _translated_errors(self.address)


@dataclass(frozen=True)
class ComparedMongodb(Mongodb):
    """A collection whose ids are compared with those of the table of its source, to find documents that vanished."""

    stored: TableRows | None = field(default=None, compare=False, repr=False)
    clock: Clock = field(default=now, compare=False, repr=False)

    def compared_with(self, stored: TableRows | None) -> ComparedMongodb:
        """Return the reader with the newest version of the table."""
        return self.replacing(stored=stored)

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the rows of the table, which only a plan needs."""
        return {**vars(self), "stored": None}

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the documents that are new since a cursor, and when it is time, the ids of those that vanished."""
        return self._planned(cursor, bound, KeyComparison(self.clock(), self.stored))


def collection_names(address: DatabaseAddress) -> list[str]:
    """Return the names of the collections and views of a database, without those of the system."""
    with _connected(address) as database:
        return [str(name) for name in database.list_collection_names() if not name.startswith("system.")]


@contextmanager
def _connected(address: DatabaseAddress) -> Iterator[Any]:
    """Yield PyMongo's database; its times have a time zone."""
    with imports_of("mongodb", "a MongoDB source"):
        import pymongo  # noqa: PLC0415 - optional dependency
    url = address.connection_url()
    with _translated_errors(address):
        limits: dict[str, Any] = {
            "serverSelectionTimeoutMS": _CONNECTS_WITHIN_MS,
            "connectTimeoutMS": _CONNECTS_WITHIN_MS,
            "socketTimeoutMS": 1000 * connecting.ANSWERS_WITHIN_S,
            "retryReads": False,  # the guard of the server retries, and counts
        }
        client: Any = pymongo.MongoClient(url, **limits, tz_aware=True)
        try:
            yield client[unquote(urlsplit(url).path).strip("/")]
        finally:
            client.close()


@contextmanager
def _translated_errors(address: DatabaseAddress) -> Iterator[None]:
    import pymongo  # noqa: PLC0415 - optional dependency

    try:
        yield
    except pymongo.errors.PyMongoError as error:
        raise _translated(error, address) from error


def _only(raw: bytes, hashes: set[str], column: str) -> bytes:
    """Return the documents of a batch with these hashes."""
    from bson.raw_bson import RawBSONDocument  # noqa: PLC0415 - optional dependency

    documents = single_documents(raw)
    return b"".join(each for each in documents if hash_of(_zoned(RawBSONDocument, each), column) in hashes)


def _zoned(kind: Any, document: bytes) -> Mapping[str, Any]:
    from bson.codec_options import CodecOptions  # noqa: PLC0415 - optional dependency

    decoded: Mapping[str, Any] = kind(document, CodecOptions(tz_aware=True, document_class=kind))
    return decoded


def _translated(error: Exception, address: DatabaseAddress) -> SourceError:
    text, place = address.redacted(message_of(error)), Place(address.public())
    code = getattr(error, "code", None)
    passes = code not in _PERMANENT_CODES and (code is None or is_unavailable(error))
    if passes and (is_unavailable(error) or "AutoReconnect" in {each.__name__ for each in type(error).__mro__}):
        return SourceUnavailableError("MongoDB is unavailable", got=text, place=place)
    return SourceError(
        "MongoDB refuses to be read", got=text, do="check the address, the user and the filter", place=place
    )


def mongodb(
    url: str,
    collection: str,
    *,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - MongoDB's name of it
    cursor: str | None = None,
    lag: Lag | None = None,
    null_cursors: NullCursors = "include",
    deleted_when: Mapping[str, Any] | None = None,
    reconcile: str | timedelta | None = None,
    password: str | None = None,
) -> Mongodb:
    """Read a collection of MongoDB.

        orders = source(mongodb("mongodb://reader@db.example.com/shop", "orders", cursor="updated_at", lag="1 minute"))

    `url` is a URL with the name of the database and without a password, or `env:NAME` or `file:PATH` with an entire URL.
    `filter` is a filter of MongoDB. Without `cursor`, everything is read by each run. With the path of a field, or `_id`,
    a run reads the documents above the greatest value that was read, and those at most `lag` below it that are new.
    `null_cursors` says what happens to documents without a value: they are read once, left out, or an error.

    With `deleted_when`, a filter of MongoDB that is true for a deleted document, or `reconcile`, every row has the column
    `_deleted`. Every `reconcile`, the `_id`s of the collection, within `filter`, are compared with those of the table of
    the source, and one that vanished is a row of it with `_deleted`.

    Raises `DefinitionError` for a password that is written out, and for contradictory options.
    """
    if null_cursors not in {"include", "exclude", "refuse"}:
        raise DefinitionError('null_cursors= must be "include", "exclude" or "refuse"', got=repr(null_cursors))
    if lag is not None and cursor is None:
        raise DefinitionError("lag= needs the name of a field as cursor=", got=repr(lag), do="remove lag=")
    if isinstance(lag, str):
        parse_duration(lag, "lag")
    with imports_of("mongodb", "mongodb(…)"):
        wanted = to_text(dict(filter)) if filter else ""
        condition = None if deleted_when is None else to_text(_filter_of(deleted_when))
    deletes = deletes_of(condition, reconcile, cursor)
    kind = ComparedMongodb if deletes is not None and deletes.every is not None else Mongodb
    address = DatabaseAddress(url, password)
    return kind(address, CollectionOptions(collection, wanted, cursor, lag, null_cursors, deletes))


def _filter_of(deleted_when: Mapping[str, Any]) -> Filter:
    if not isinstance(deleted_when, Mapping) or not deleted_when:
        raise DefinitionError(
            "deleted_when= must be a filter of MongoDB that is not empty",
            got=repr(deleted_when),
            do='pass one such as {"status": "deleted"}, or remove it',
        )
    return dict(deleted_when)
