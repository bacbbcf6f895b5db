"""Plans the documents of a collection by a cursor field and `_id`, as `cursor_window` does for SQL."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipeline.connectors.databases.cursor_values import Lag, NullCursors, most_rows
from pipeline.connectors.databases.cursor_window import new_text
from pipeline.connectors.databases.deletes import Deletes, KeyComparison
from pipeline.connectors.databases.mongodb.deletes import vanished_ids
from pipeline.connectors.databases.seen_rows import NO_HASHES, SeenRows, among
from pipeline.core.cursors import Bound, Cursor, ReadPlan
from pipeline.core.errors import DefinitionError, Place, SourceError, quantity
from pipeline.core.event_time import parse_duration
from pipeline.core.splits import SourceObject, SourceSplit

KIND = "documents"
SPLIT_DOCUMENTS = 250_000
_IDS_PER_SPLIT = 10_000
_DOCUMENT_BYTES = 500
_KINDS = (
    ("number", ["number"]),
    ("date", ["date"]),
    ("text", ["string"]),
    ("id", ["objectId"]),
)
Filter = dict[str, Any]


@dataclass(frozen=True)
class CollectionOptions:
    """What is read from a collection, and how it is known what is new."""

    collection: str
    filter: str = ""
    """Extended JSON."""
    cursor: str | None = None
    lag: Lag | None = None
    null_cursors: NullCursors = "include"
    deletes: Deletes | None = field(default=None, repr=False)
    """How deleted documents are recognized; not shown, so that the fingerprints of readers without it stay as they are."""


@dataclass(frozen=True)
class DocumentProgress:
    """What was read: all documents up to the value `high`, and which ones of those within the lag."""

    rows: int = 0
    high: str | None = None
    """The value as extended JSON, which names its type."""
    seen: SeenRows = field(default_factory=SeenRows)
    nulls: SeenRows = field(default_factory=SeenRows)
    compared: str | None = None
    """When the ids were compared last, in ISO format."""

    @classmethod
    def of(cls, cursor: Cursor) -> DocumentProgress:
        """Return the progress in a cursor."""
        value = cursor.of_kind(KIND)
        seen, nulls = (SeenRows.of_json(value[name]) for name in ("seen", "nulls"))
        return cls(value["rows"], value["high"], seen, nulls, value.get("compared"))

    def cursor(self) -> Cursor:
        """Return the progress as a cursor."""
        value = {"rows": self.rows, "high": self.high, "seen": self.seen.to_json(), "nulls": self.nulls.to_json()}
        return Cursor(KIND, value if self.compared is None else {**value, "compared": self.compared})


def to_text(value: Any) -> str:
    """Return a value or a filter as extended JSON, which keeps its types."""
    from bson import json_util  # noqa: PLC0415 - optional dependency

    return str(json_util.dumps(value, json_options=json_util.CANONICAL_JSON_OPTIONS))


def of_text(text: str) -> Any:
    """Return a value from extended JSON."""
    from bson import json_util  # noqa: PLC0415 - optional dependency

    options = json_util.JSONOptions(json_mode=json_util.JSONMode.CANONICAL, tz_aware=True)
    return json_util.loads(text, json_options=options)


@dataclass(frozen=True)
class DocumentRange:
    """Documents that match a filter, in an order; if hashes are given, only these."""

    filter: Filter
    order: tuple[str, ...] = ("_id",)
    hashes: tuple[str, ...] | None = None
    vanished: tuple[str, ...] | None = None
    """The ids of documents that vanished, as JSON; then nothing is read."""

    @classmethod
    def of(cls, stamp: str) -> DocumentRange:
        """Return the range in the stamp of a source object."""
        value = of_text(stamp)
        hashes, vanished = (None if value.get(name) is None else tuple(value[name]) for name in ("hashes", "vanished"))
        return cls(value["filter"], tuple(value["order"]), hashes, vanished)

    def stamp(self) -> str:
        """Return the range as text."""
        value = {"filter": self.filter, "order": list(self.order), "hashes": self.hashes}
        return to_text(value if self.vanished is None else {**value, "vanished": self.vanished})


def hash_of(document: Mapping[str, Any], column: str) -> str:
    """Return a hash of a document's `_id` and its cursor value."""
    identity = to_text([document.get("_id"), value_at(document, column)])
    return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()


def value_at(document: Mapping[str, Any], path: str) -> Any:
    """Return the value of a field, whose parts are separated by dots; null if there is none."""
    value: Any = document
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


@dataclass(frozen=True)
class CollectionPlanning:
    """Plans a collection, of which `documents` is PyMongo's."""

    documents: Any
    uri: str
    options: CollectionOptions
    comparison: KeyComparison | None = None

    @property
    def base(self) -> Filter:
        """The filter of the user."""
        return dict(of_text(self.options.filter)) if self.options.filter else {}

    @property
    def _place(self) -> str:
        return f"{self.uri}/{self.options.collection}"

    @property
    def column(self) -> str:
        """The cursor field."""
        return self.options.cursor or "_id"

    def full(self, cursor: Cursor | None) -> ReadPlan:
        """Plan all documents; with a cursor, everything is read again."""
        if cursor is not None:
            return ReadPlan((), cursor, changed="it is read in full by each run")
        splits, rows = self._numbered(self._by_id(), 0)
        return ReadPlan(splits, DocumentProgress(rows).cursor(), new=quantity(rows, "document") if rows else "")

    def _by_id(self) -> list[tuple[DocumentRange, int]]:
        """Return parts of the collection; one if it has ids of several types, which ranges of one type would leave out."""
        count = self._count({})
        if count > SPLIT_DOCUMENTS:
            first = self.documents.find_one(self.base, {"_id": 1}) or {}
            _, types = _kind_of(first.get("_id"))
            if not self._count({"_id": {"$not": {"$type": types}}}):
                return self._divided({}, ("_id",), count)
        return [(DocumentRange(self.base), count)]

    def since(self, cursor: Cursor | None, bound: Bound) -> ReadPlan:
        """Plan the documents above the cursor, and the late ones."""
        before = DocumentProgress() if cursor is None else DocumentProgress.of(cursor)
        self._require_one_type(before)
        high, has_more = self._next_high(before, bound)
        late, read, notes = self._late(before)
        nulls, null_rows = self._null_documents(before)
        main, seen = ([], before.seen) if high is None else self._main(before, high, read)
        vanished, compared = self._vanished(before)
        gone = [(DocumentRange({}, vanished=ids), len(ids)) for ids in _divided_ids(vanished or ())]
        splits, rows = self._numbered([*late, *nulls, *main, *gone], before.rows)
        if not splits and vanished is not None:  # a commit keeps the time of the comparison
            splits = (SourceSplit(SourceObject(self._place, 0, DocumentRange({}, vanished=()).stamp()), rows, rows),)
        text = None if high is None else to_text(high)
        after = DocumentProgress(before.rows + rows, text, seen, null_rows, compared)
        return ReadPlan(
            splits,
            after.cursor(),
            new=new_text(quantity(rows, "document") if rows else "", vanished, has_more=has_more),
            is_later=False,  # another version of a document may have been read
            has_more=has_more,
            notes=notes,
        )

    def _vanished(self, before: DocumentProgress) -> tuple[tuple[str, ...] | None, str | None]:
        """Return the ids that vanished, `None` if they were not compared, and the time of the last comparison."""
        comparison, deletes = self.comparison, self.options.deletes
        if comparison is None or deletes is None or deletes.every is None:
            return None, None
        now = comparison.time.isoformat()
        if comparison.stored is None or not comparison.is_due(deletes.every, before.compared):
            return None, before.compared or now
        batches = self.documents.find_raw_batches(self.base, {"_id": 1})
        return vanished_ids(comparison.stored, batches, Place(self._place)), now

    def _require_one_type(self, before: DocumentProgress) -> None:
        """Raise `SourceError` if the cursor has values of several types, which MongoDB does not compare."""
        known = None if before.high is None else {self.column: of_text(before.high)}
        sample = known or self.documents.find_one({**self.base, self.column: {"$ne": None}}, {self.column: 1})
        if sample is None:
            return
        value = value_at(sample, self.column) if known is None else known[self.column]
        kind, types = _kind_of(value)
        others = self._count({self.column: {"$ne": None, "$not": {"$type": types}}})
        if others:
            raise SourceError(
                f"the cursor {self.column!r} has values of several types, which cannot be compared",
                got=f"{quantity(others, 'document')} whose value is no {kind}",
                do="choose another cursor, or leave them out by filter=",
                place=Place(self.uri),
            )

    def _next_high(self, before: DocumentProgress, bound: Bound) -> tuple[Any, bool]:
        """Return the greatest value to read, and whether a bound leaves documents above it."""
        high = None if before.high is None else of_text(before.high)
        newer = self._and({self.column: {"$ne": None} if high is None else {"$gt": high}})
        found = [*self.documents.find(newer, {self.column: 1}).sort(self.column, -1).limit(1)]
        if not found:
            return high, False
        newest, most = value_at(found[0], self.column), most_rows(bound)
        if most is None:
            return newest, False
        at_limit = [*self.documents.find(newer, {self.column: 1}).sort(self.column, 1).skip(most - 1).limit(1)]
        limit = value_at(at_limit[0], self.column) if at_limit else newest
        return limit, limit != newest

    def _late(
        self, before: DocumentProgress
    ) -> tuple[list[tuple[DocumentRange, int]], pa.ChunkedArray, tuple[str, ...]]:
        """Return the documents of the previous window that were not read, and the hashes of all its documents."""
        if before.high is None:
            return [], NO_HASHES, ()
        window = self._window(of_text(before.high))
        hashes = self._hashes(window)
        unseen = before.seen.unseen(hashes)
        if unseen == ():
            return [], hashes, ()
        note = f"{quantity(len(hashes), 'document')} near the cursor are read again, because some of them are new and it is not known which: choose a shorter lag or finer values"
        count = len(hashes) if unseen is None else len(unseen)
        return [(self._range(window, unseen), count)], hashes, (note,) if unseen is None else ()

    def _null_documents(self, before: DocumentProgress) -> tuple[list[tuple[DocumentRange, int]], SeenRows]:
        if self.options.null_cursors == "exclude":
            return [], before.nulls
        missing: Filter = {self.column: None}
        hashes = self._hashes(missing)
        if self.options.null_cursors == "refuse" and len(hashes):
            raise SourceError(
                f"the cursor {self.column!r} is null or missing",
                got=quantity(len(hashes), "document"),
                do='fill it, or pass null_cursors="include" or "exclude"',
                place=Place(self.uri),
            )
        unseen = before.nulls.unseen(hashes)
        if unseen == ():
            return [], before.nulls
        return [(self._range(missing, unseen), len(hashes) if unseen is None else len(unseen))], SeenRows.of(hashes)

    def _main(
        self, before: DocumentProgress, high: Any, read: pa.ChunkedArray
    ) -> tuple[list[tuple[DocumentRange, int]], SeenRows]:
        """Return the documents above the previous plan, and those of the new window that are then read.

        Those within the lag are fixed by their hashes. `read` are the hashes of the documents of the previous window.
        """
        known = None if before.high is None else of_text(before.high)
        if known is not None and known == high:
            return [], SeenRows.of(read)
        window, above = self._window(high), {} if known is None else {"$gt": known}
        tail: Filter = {"$and": [window, {self.column: above}]} if above else window
        fixed = self._hashes(tail)
        near = NO_HASHES
        if len(read) and self.options.lag is not None:
            near = among(self._hashes({"$and": [window, {self.column: {"$lte": known}}]}), read)
        seen = SeenRows.of(pa.chunked_array([*near.chunks, *fixed.chunks], pa.string()))
        order = (self.column, "_id") if self.column != "_id" else ("_id",)
        if seen.hashes is None:
            everything: Filter = {self.column: {**above, "$lte": high}}
            return self._divided(everything, order, self._count(everything)), seen
        body: Filter = {self.column: {**above, "$lt": self._low(high)}}
        parts = self._divided(body, order, self._count(body))
        return [*parts, (self._range(tail, tuple(fixed.to_pylist())), len(fixed))], seen

    def _divided(self, wanted: Filter, order: tuple[str, ...], count: int) -> list[tuple[DocumentRange, int]]:
        """Return parts of about `SPLIT_DOCUMENTS`, between values of the first field of the order."""
        at, name = [], order[0]
        for skipped in range(SPLIT_DOCUMENTS, count, SPLIT_DOCUMENTS):
            found = [*self.documents.find(self._and(wanted), {name: 1}).sort(name, 1).skip(skipped).limit(1)]
            at += [value_at(each, name) for each in found]
        cuts = [value for number, value in enumerate(at) if number == 0 or value != at[number - 1]]
        bounds: list[Filter] = [
            {} if not cuts else {name: {"$lt": cuts[0]}},
            *({name: {"$gte": a, "$lt": b}} for a, b in itertools.pairwise(cuts)),
            *([{name: {"$gte": cuts[-1]}}] if cuts else []),
        ]
        parts: list[Filter] = [{"$and": [wanted, each]} if wanted and each else (wanted or each) for each in bounds]
        return [(DocumentRange(self._and(part), order), self._count(part)) for part in parts]

    def _low(self, high: Any) -> Any:
        """Return a value less the lag; raise `DefinitionError` for a lag that does not suit it."""
        lag = self.options.lag
        if lag is None:
            return high
        from bson import ObjectId  # noqa: PLC0415 - optional dependency

        is_time = isinstance(high, datetime | ObjectId)
        if is_time is isinstance(lag, int) or not (is_time or isinstance(high, int | float)):
            raise DefinitionError(
                f"the lag does not suit the cursor {self.column!r}",
                got=repr(lag),
                do="pass a duration for dates and object ids, and a number for numbers",
                place=Place(self.uri),
            )
        if isinstance(lag, int):
            return high - lag
        span = parse_duration(lag, "lag")
        if isinstance(high, ObjectId):
            return ObjectId.from_datetime(high.generation_time - span)
        return high - span

    def _window(self, high: Any) -> Filter:
        return {self.column: {"$gte": self._low(high), "$lte": high}}

    def _range(self, wanted: Filter, hashes: tuple[str, ...] | None) -> DocumentRange:
        order = (self.column, "_id") if self.column != "_id" else ("_id",)
        return DocumentRange(self._and(wanted), order, hashes)

    def _hashes(self, wanted: Filter) -> pa.ChunkedArray:
        found = self.documents.find(self._and(wanted), {"_id": 1, self.column: 1})
        return pa.chunked_array([pa.array([hash_of(each, self.column) for each in found], pa.string())])

    def _count(self, wanted: Filter) -> int:
        return int(self.documents.count_documents(self._and(wanted)))

    def _and(self, wanted: Filter) -> Filter:
        return {"$and": [self.base, wanted]} if self.base and wanted else (self.base or wanted)

    def _numbered(self, parts: list[tuple[DocumentRange, int]], before: int) -> tuple[tuple[SourceSplit, ...], int]:
        splits, position = [], before
        for part, rows in parts:
            if rows:
                size = rows * _DOCUMENT_BYTES
                table = SourceObject(self._place, size, part.stamp())
                splits.append(SourceSplit(table, position, position + rows, position + 1, size))
                position += rows
        return tuple(splits), position - before


def _divided_ids(ids: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for begin in range(0, len(ids), _IDS_PER_SPLIT):
        yield ids[begin : begin + _IDS_PER_SPLIT]


def _kind_of(value: Any) -> tuple[str, list[str]]:
    from bson import ObjectId  # noqa: PLC0415 - optional dependency

    of_type: dict[type, str] = {datetime: "date", str: "text", ObjectId: "id"}
    kind = next((name for each, name in of_type.items() if isinstance(value, each)), "number")
    return kind, dict(_KINDS)[kind]
