"""The system query options of a request: `$select`, `$filter`, `$orderby`, `$top`, `$skip`, `$count`, `$format`, `$skiptoken`, `$apply`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.errors import did_you_mean
from serve.http_errors import HttpError, UnsupportedError
from serve.odata.filter_syntax import Filter, parse_filter
from serve.odata.model import NAMESPACE, EntitySet, Property
from serve.queries.parameters import MOST_OFFSET, integer
from serve.queries.query import Ordering
from serve.queries.values import shown

KNOWN = ("select", "filter", "orderby", "top", "skip", "count", "format", "skiptoken", "apply")
_UNSUPPORTED = ("expand", "search", "compute", "levels", "index", "schemaversion", "deltatoken", "id")
_MOST_TERMS = 200


@dataclass(frozen=True)
class Options:
    """The options by their names without `$`."""

    words: dict[str, str]

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> Options:
        """Read the options of a query; others than OData's are ignored.

        Raises `HttpError` for an unknown option that begins with `$`, and for one that is given twice, and
        `UnsupportedError` for one that this service does not support.
        """
        words: dict[str, str] = {}
        for name, value in pairs:
            word = name.lower().removeprefix("$")
            if word in _UNSUPPORTED and (name.startswith("$") or word in {"expand", "search", "compute"}):
                raise UnsupportedError(f"'${word}' is not supported", do="see the annotations of $metadata")
            if name.startswith("@"):
                raise UnsupportedError("parameter aliases are not supported", got=shown(name), do="write the value")
            if word not in KNOWN:
                if name.startswith("$"):
                    raise HttpError(f"there is no query option {shown(name)}", do=did_you_mean(word[:200], KNOWN))
                continue
            if word in words:
                raise HttpError(f"'${word}' is given twice", do="give it once")
            words[word] = value
        return cls(words)

    def require_only(self, *names: str) -> None:
        """Raise `HttpError` for an option that does not apply to the resource."""
        for name in self.words:
            if name not in names:
                raise HttpError(f"'${name}' does not apply here", got=shown(self.words[name]))

    def number(self, name: str) -> int | None:
        """Return an option as a number; raise `HttpError` if it is not one."""
        text = self.words.get(name)
        return None if text is None else integer(f"${name}", text.strip(), 0, MOST_OFFSET)

    @property
    def counts(self) -> bool:
        """Whether the response tells the number of entities on all pages."""
        text = self.words.get("count", "false").strip().lower()
        if text not in {"true", "false"}:
            raise HttpError("'$count' takes true or false", got=shown(text))
        return text == "true"

    def selected(self, entities: EntitySet) -> tuple[Property, ...]:
        """Return the selected properties, in the order of the model."""
        text = self.words.get("select", "*").strip()
        known = {each.name: each for each in entities.properties}
        names = set()
        for term in (each.strip() for each in text.split(",")):
            if term in {"*", f"{NAMESPACE}.*"}:
                names |= set(known)
                continue
            if term not in known:
                raise _no_property(term, known)
            names.add(term)
        return tuple(each for each in entities.properties if each.name in names)

    def filter(self, entities: EntitySet) -> Filter | None:
        """Return the condition of `$filter`."""
        text = self.words.get("filter")
        return None if text is None or not text.strip() else parse_filter(text, entities.columns)

    def ordering(self, entities: EntitySet) -> tuple[Ordering, ...]:
        """Return the order: null comes before other values, and after them in descending order."""
        text = self.words.get("orderby", "").strip()
        known = {each.name: each for each in entities.properties}
        terms: dict[str, Ordering] = {}
        for term in (each.strip() for each in text.split(",")) if text else ():
            words = re.fullmatch(r"(?:\$it/)?(\w+)(?:\s+(asc|desc))?", term, re.IGNORECASE)
            if words is None:
                if "(" in term or "/" in term or len(term.split()) > 2:  # noqa: PLR2004 - a name and its direction
                    raise UnsupportedError(
                        "'$orderby' takes properties only", got=shown(term), do="order by a property"
                    )
                raise HttpError("'$orderby' takes properties, each with asc or desc", got=shown(term))
            if words[1] not in known:
                raise _no_property(words[1], known)
            if not known[words[1]].is_sortable:
                raise UnsupportedError(f"entities cannot be ordered by property {words[1]!r}", do="order by another")
            is_descending = (words[2] or "").lower() == "desc"
            column = known[words[1]].column.name
            terms.setdefault(column, Ordering(column, descending=is_descending, nulls_first=not is_descending))
        if len(terms) > _MOST_TERMS:
            raise HttpError(f"'$orderby' takes at most {_MOST_TERMS} properties")
        return tuple(terms.values())


def _no_property(name: str, known: dict[str, Property]) -> HttpError:
    if "/" in name or "(" in name:
        return UnsupportedError("there are no navigation properties and no functions", got=shown(name))
    return HttpError(f"there is no property {shown(name)}", do=did_you_mean(name[:200], known))
