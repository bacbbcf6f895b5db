"""Resources of dlt as a source. Create it with `dlt_resource`.

Delivery: each item that the resource yielded, once, as far as its `incremental` knows what is new; dlt's state is the cursor,
stored with the rows of the commit. A resource without `incremental` is read completely, and compared with what was read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa

from pipeline.connectors.spool.progress import FetchedPage, PagedSource, Progress
from pipeline.connectors.spool.reader import SpooledReader
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import DefinitionError, Place, SourceError
from pipeline.core.extras import imports_of
from pipeline.core.fingerprint import fingerprint

_PAGE_ROWS = 10_000
_MOST_STATE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class DltSource(SpooledReader):
    """A resource of dlt. Create it with `dlt_resource`."""

    name: str
    create: Callable[[], Any] = field(compare=False, repr=False)
    """Returns the resource; a new one for each fetch, because a resource may be exhausted by reading it."""

    def __getstate__(self) -> dict[str, object]:
        """Pickle everything but the resource: only the process that plans a run calls it."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "create"}

    @property
    def fingerprint(self) -> str:
        """A hash of the name."""
        return fingerprint("dlt", self.name)

    @property
    def uri(self) -> str:
        """The name of the resource."""
        return f"dlt://{self.name}"

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Read the items that are new by the state of the cursor; limits do not apply.

        Raises `SourceError` for an error of the resource; nothing of it is then read.
        """
        with imports_of("dlt", "dlt_resource(…)"):
            import dlt.common.json  # noqa: F401, PLC0415 - optional dependency
        by_state = getattr(self.create(), "incremental", None) is not None
        return PagedSource(self.uri, self.segments, self._pages, by_token=by_state).plan(cursor, bound)

    def _pages(self, progress: Progress) -> Iterator[FetchedPage]:
        from dlt.common.configuration.container import Container  # noqa: PLC0415 - optional dependency
        from dlt.common.json import json  # noqa: PLC0415 - likewise
        from dlt.common.pipeline import StateInjectableContext  # noqa: PLC0415 - likewise

        state: Any = {} if progress.token is None else json.typed_loads(progress.token)
        with Container().injectable_context(StateInjectableContext(state=state)):
            items = _rows(self._items())
            while batch := list(itertools.islice(items, _PAGE_ROWS)):
                yield FetchedPage([json.dumpb(item) for item in batch], self.uri)
        text = json.typed_dumps(state)
        if len(text) > _MOST_STATE:
            raise SourceError(
                "the state of the resource is too large to be stored with each commit",
                got=f"{len(text):,} characters",
                do="use a finer cursor, or incremental(..., primary_key=()) to keep no hashes",
                place=Place(self.uri),
            )
        yield FetchedPage([], self.uri, token=text)

    def _items(self) -> Iterator[Any]:
        from dlt.common.exceptions import DltException  # noqa: PLC0415 - optional dependency

        try:
            yield from self.create()
        except DltException as error:
            cause = error.__cause__ or error
            raise SourceError("the resource failed", got=" ".join(str(cause).split()), place=Place(self.uri)) from error


def _rows(items: Iterable[Any]) -> Iterator[Any]:
    """Yield the rows of items, some of which are tables."""
    for item in items:
        if isinstance(item, pa.Table | pa.RecordBatch):
            yield from item.to_pylist()
        elif hasattr(item, "to_dict") and hasattr(item, "columns"):
            yield from item.to_dict("records")
        else:
            yield item


def dlt_resource(resource: Any, *, name: str | None = None, spool: str | None = None) -> DltSource:
    """Read a resource of dlt, or what a function without parameters that returns one returns.

    `dlt.sources.incremental` works as in a pipeline of dlt. `name` is by default that of the resource; it is part of
    `_source`. Names of fields stay as they are, and nested values become structs and lists.

    Raises `DefinitionError` if this is neither a resource nor such a function.
    """
    is_resource = hasattr(resource, "incremental") and hasattr(resource, "name") and hasattr(resource, "__iter__")
    if not is_resource and not callable(resource):
        raise DefinitionError(
            "this is not a resource of dlt",
            got=repr(type(resource)),
            do="pass a resource, or a function that returns one",
        )
    chosen = name or getattr(resource, "name", None) or getattr(resource, "__name__", "")
    if not chosen or chosen == "<lambda>":
        raise DefinitionError("the resource has no name", do="pass name=")
    return DltSource(name=chosen, create=_Same(resource) if is_resource else resource, spool=spool)


@dataclass(frozen=True)
class _Same:
    """A function that returns a resource."""

    resource: Any

    def __call__(self) -> Any:
        return self.resource
