"""Takes the rows out of a JSON response without changing their text, so that numbers keep all digits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.connectors.json_text import without_line_ends
from pipeline.core.errors import DefinitionError, Place, SourceError, did_you_mean, few

_STEP = re.compile(r"\.([^.\[\]'\"]+)|\[\s*'([^']*)'\s*\]|\[\s*\"([^\"]*)\"\s*\]")
USUAL_KEYS = ("items", "data", "results", "value", "values", "records", "rows", "entries", "hits", "content", "objects")
"""The usual keys of the list of rows in an answer."""
_SHOWN = 60


def path_of(text: str) -> tuple[str, ...]:
    """Return the keys of a path such as `$.data.items` or `$['a.b']`; raise `DefinitionError` for anything else."""
    rest, keys = text.removesuffix("[*]"), []
    if not rest.startswith("$"):
        rest = f"$.{rest}"
    position = 1
    while position < len(rest):
        match = _STEP.match(rest, position)
        if match is None:
            raise DefinitionError("this is not a path of keys", got=repr(text), do="write for example '$.data.items'")
        keys.append(next(group for group in match.groups() if group is not None))
        position = match.end()
    return tuple(keys)


@dataclass(frozen=True)
class JsonBody:
    """A JSON response; its values are decoded when they are needed."""

    text: bytes
    place: Place

    def at(self, path: Sequence[str]) -> bytes | None:
        """Return the JSON text at a path, None if a key of the path does not exist; raise `SourceError` for invalid JSON."""
        node = self.text
        for key in path:
            fields = self._object(node)
            if fields is None or key not in fields:
                return None
            node = bytes(fields[key])
        return node

    def value(self, path: Sequence[str]) -> Any:
        """Return the value at a path, None if a key of the path does not exist."""
        text = self.at(path)
        return None if text is None else self._decoded(text, Any)

    def keys(self, path: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the keys of the object at a path; none if there is no object."""
        text = self.at(path)
        return () if text is None else tuple(self._object(text) or ())

    def rows(self, path: Sequence[str]) -> list[bytes]:
        """Return the elements of the array at a path, each as one line; an object is one row, null has none.

        Raises `SourceError` if there is neither.
        """
        text = self.at(path)
        if text is None:
            known = self.keys(path[:-1])
            raise SourceError(
                f"the response has no {'.'.join(('$', *path))}",
                got=f"keys {few(map(repr, known))}" if known else self._excerpt(),
                do=did_you_mean(path[-1], known) if known else "pass rows=",
                place=self.place,
            )
        first = text.lstrip()[:1]
        if first == b"[":
            rows = list(map(bytes, self._decoded(text, list[msgspec.Raw])))
            return list(map(without_line_ends, rows)) if b"\n" in text or b"\r" in text else rows
        if first == b"{":
            return [without_line_ends(text)]
        if text.strip() == b"null":
            return []
        raise SourceError(
            "the rows are neither an array nor an object", got=self._excerpt(text), do="pass rows=", place=self.place
        )

    def rows_path(self) -> tuple[str, ...]:
        """Return where the rows are: the response itself if it is an array, otherwise its only or best known array.

        Raises `SourceError` if that is not clear.
        """
        if self.text.lstrip()[:1] == b"[":
            return ()
        fields = self._object(self.text)
        arrays = [key for key, text in (fields or {}).items() if bytes(text).lstrip()[:1] == b"["]
        usual = [key for key in USUAL_KEYS if key in arrays]
        if len(arrays) == 1 or usual:
            return ((usual or arrays)[0],)
        raise SourceError(
            "it is not clear which part of the response has the rows",
            got=f"arrays {few(map(repr, arrays))}" if arrays else self._excerpt(),
            do="pass rows=, for example rows='$.items'",
            place=self.place,
        )

    def _object(self, text: bytes) -> Mapping[str, msgspec.Raw] | None:
        if text.lstrip()[:1] != b"{":
            return None
        fields: Mapping[str, msgspec.Raw] = self._decoded(text, dict[str, msgspec.Raw])
        return fields

    def _decoded(self, text: bytes, kind: Any) -> Any:
        try:
            return msgspec.json.decode(text, type=kind)
        except RecursionError as error:
            raise SourceError("a response is nested too deeply", place=self.place) from error
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            raise SourceError(
                "a response is not valid JSON", got=f"{error}, in {self._excerpt(text)}", place=self.place
            ) from error

    def _excerpt(self, text: bytes | None = None) -> str:
        shown = (self.text if text is None else text)[: 4 * _SHOWN].decode("utf-8", "replace")
        return repr(" ".join(shown.split())[:_SHOWN])
