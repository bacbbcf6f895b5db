"""Elements of XML files, converted to JSON lines: one row for each element with a name.

A child element is a field with its text, or an object if it has children; children of one name are a list. An attribute is
a field `@name`, text beside children `#text`. DTDs and entities are errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.connectors.files.csv.reader import Dialect
from pipeline.core.errors import Place, SourceError
from pipeline.core.extras import imports_of

_TEXT, _ATTRIBUTE = "#text", "@"
_NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"


@dataclass(frozen=True)
class XmlRows:
    """The name of the elements that are rows, and the names of children that are lists even if there is one."""

    rows: str
    lists: tuple[str, ...] = ()

    decodes = True
    has_columns = False

    def rows_before(self, dialect: Dialect) -> int:
        """Return 0: the position of a row is its number among the elements."""
        del dialect
        return 0

    def convert(self, path: str, target: str, dialect: Dialect, place: Place) -> None:
        """Write the elements as JSON lines; a file without such an element is an error."""
        del dialect
        with imports_of("files", "reading XML files"):
            from lxml import etree  # noqa: PLC0415 - an extra

        count = 0
        try:
            with Path(path).open("rb") as file, Path(target).open("w", encoding="utf-8") as lines:
                for row in self._rows(etree, file, place):
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
        except etree.XMLSyntaxError as error:
            line = error.lineno
            raise SourceError("the file is not valid XML", got=str(error.msg), place=Place(place.file, line)) from error
        if not count:
            raise SourceError(f"the file has no element {self.rows!r}", do="correct rows=", place=place)

    def _rows(self, etree: Any, file: Any, place: Place) -> Iterator[dict[str, Any]]:
        elements = etree.iterparse(
            file,
            tag=f"{{*}}{self.rows}",
            resolve_entities=False,
            load_dtd=False,
            no_network=True,
            huge_tree=False,
            remove_comments=True,
            remove_pis=True,
        )
        is_checked = False
        for _, element in elements:
            if not is_checked and element.getroottree().docinfo.doctype:
                raise SourceError("the file contains a DTD", do="remove it; entities are not read", place=place)
            is_checked = True
            if any(_local(each.tag) == self.rows for each in element.iterancestors()):
                continue  # an element of the same name within a row belongs to it
            value = self._value(element)
            yield value if isinstance(value, dict) else {} if value is None else {_TEXT: value}
            element.clear(keep_tail=False)
            parent = element.getparent()
            while element.getprevious() is not None:
                del parent[0]
        if not is_checked and elements.root is not None and elements.root.getroottree().docinfo.doctype:
            raise SourceError("the file contains a DTD", do="remove it; entities are not read", place=place)

    def _value(self, element: Any) -> Any:
        """Return the value of an element: text, an object, or `None` if it is empty."""
        row: dict[str, Any] = {_ATTRIBUTE + _local(n): v for n, v in element.attrib.items() if n != _NIL}
        if not len(element) and not row:
            return element.text or None
        texts, seen = [element.text], dict[str, list[Any]]()
        for child in element:
            texts.append(child.tail)
            value = self._value(child) if len(child) or child.attrib else child.text or None
            seen.setdefault(_local(child.tag), []).append(value)
        row |= {n: each if len(each) > 1 or n in self.lists else each[0] for n, each in seen.items()}
        text = "".join(filter(None, texts)).strip()
        return {**row, _TEXT: text} if text else row


def _local(name: str) -> str:
    """Return a name without its namespace."""
    return name.rpartition("}")[2] if name[0] == "{" else name
