"""`COPY … TO STDOUT`: all rows of a SELECT at once, as text, as CSV, or in binary form, which drivers use that are in a hurry.

Source: https://www.postgresql.org/docs/16/sql-copy.html.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from serve.postgres.errors import PostgresError
from serve.postgres.messages import BINARY, TEXT, FieldDescription, message
from serve.postgres.statements import Command
from serve.queries.values import shown

_COPY = re.compile(
    r"""\s*copy\s+(?:\((?P<query>.*)\)|(?P<table>(?:"(?:[^"]|"")+"|[\w.$])+)\s*(?:\((?P<columns>[^)]*)\))?)\s*to\s+stdout\b\s*(?:with\b)?(?P<options>.*)""",
    re.IGNORECASE | re.DOTALL,
)
_OPTIONS = re.compile(r"'((?:[^']|'')*)'|(\w+)")
_NULLS = {"text": "\\N", "csv": "", "binary": ""}
_DELIMITERS = {"text": "\t", "csv": ",", "binary": ""}
_ESCAPES = {
    ord("\\"): "\\\\",
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    ord("\b"): "\\b",
    ord("\f"): "\\f",
    ord("\v"): "\\v",
}
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_LONG, _END, _NULL = struct.Struct("!i"), struct.pack("!h", -1), struct.pack("!i", -1)


@dataclass(frozen=True)
class CopyCommand:
    """What is copied, and in which form."""

    query: str
    form: str = "text"
    """`text`, `csv` or `binary`."""
    has_header: bool = False
    delimiter: str | None = None
    null: str | None = None
    quote: str = '"'

    @property
    def value_form(self) -> int:
        """The form of its values: `TEXT` or `BINARY`."""
        return BINARY if self.form == "binary" else TEXT


def copy_command(command: Command) -> CopyCommand | None:
    """Return what a command copies, or `None` if it is another one; raise `PostgresError` for a copy that is not to the driver, and for unknown options."""
    if command.words[0] != "COPY":
        return None
    found = _COPY.fullmatch(command.text)
    if found is None:
        raise PostgresError("0A000", "this COPY is not supported", do="write COPY (SELECT …) TO STDOUT (FORMAT csv)")
    query = found["query"] or f"select {found['columns'] or '*'} from {found['table']}"
    made, words = CopyCommand(query), [(text, word.lower()) for text, word in _OPTIONS.findall(found["options"])]
    while words:
        made, words = _with_option(made, words)
    if len(made.delimiter or ",") != 1 or len(made.quote) != 1:
        raise PostgresError("22023", "the delimiter and the quote are one character each")
    return made


def _with_option(made: CopyCommand, words: list[tuple[str, str]]) -> tuple[CopyCommand, list[tuple[str, str]]]:
    """Return the command with the first option of the words, and the words after it."""
    (_, name), rest = words[0], words[1:]
    if name in {"csv", "binary", "text"}:
        return replace(made, form=name), rest
    if name == "header":
        is_off = bool(rest) and rest[0][1] in {"false", "off"}
        says = bool(rest) and (is_off or rest[0][1] in {"true", "on", "match"})
        return replace(made, has_header=not is_off), rest[1:] if says else rest
    rest = rest[1:] if rest and rest[0][1] == "as" else rest
    if rest and name == "format" and rest[0][1] in _NULLS:
        return replace(made, form=rest[0][1]), rest[1:]
    text = rest[0][0].replace("''", "'") if rest else ""
    changed = {
        "delimiter": replace(made, delimiter=text), "null": replace(made, null=text), "quote": replace(made, quote=text),
    }  # fmt: skip
    if rest and name in changed:
        return changed[name], rest[1:]
    if rest and name == "encoding" and (rest[0][0] or rest[0][1]).lower().replace("-", "") == "utf8":
        return made, rest[1:]
    raise PostgresError(
        "0A000",
        f"COPY does not support {shown(name or 'this option')}",
        do="use FORMAT, HEADER, DELIMITER, NULL and QUOTE",
    )


class CopyWriter:
    """Makes the messages of a copy: what is before the rows, the rows, and what is after them."""

    def __init__(self, command: CopyCommand) -> None:
        """Begin with the first row."""
        self._command = command
        self._delimiter = command.delimiter or _DELIMITERS[command.form]
        self._null = _NULLS[command.form] if command.null is None else command.null
        self._pending = _SIGNATURE if command.form == "binary" else b""

    def begin(self, fields: Sequence[FieldDescription]) -> bytes:
        """Return the message that rows follow, and the line with the names if there is one."""
        form, number = self._command.value_form, len(fields)
        response = message(b"H", struct.pack(f"!bh{number}h", form, number, *([form] * number)))
        if not self._command.has_header or form == BINARY:
            return response
        return response + message(b"d", self._line([each.name.encode() for each in fields]))

    def rows(self, columns: Sequence[Sequence[bytes | None]], number: int) -> bytes:
        """Return a message for each row."""
        encode = self._tuple if self._command.form == "binary" else self._line
        rows: Iterator[tuple[bytes | None, ...]] = zip(*columns, strict=True) if columns else iter([()] * number)
        return b"".join([message(b"d", encode(row)) for row in rows])

    def end(self) -> bytes:
        """Return what is after the last row."""
        last = message(b"d", self._taken() + _END) if self._command.form == "binary" else b""
        return last + message(b"c")

    def _tuple(self, row: Sequence[bytes | None]) -> bytes:
        values = b"".join([_NULL if value is None else _LONG.pack(len(value)) + value for value in row])
        return self._taken() + struct.pack("!h", len(row)) + values

    def _taken(self) -> bytes:
        """Return the signature, which is before the first row."""
        pending, self._pending = self._pending, b""
        return pending

    def _line(self, row: Sequence[bytes | None]) -> bytes:
        encode = self._quoted if self._command.form == "csv" else self._escaped
        if self._command.form == "csv" and list(row) == [b"\\."]:  # which ends a file if it is the whole line
            return f"{self._command.quote}\\.{self._command.quote}\n".encode()
        return (
            self._delimiter.join([self._null if value is None else encode(value.decode()) for value in row]) + "\n"
        ).encode()

    def _escaped(self, text: str) -> str:
        escaped = text.translate(_ESCAPES)
        return escaped if self._delimiter == "\t" else escaped.replace(self._delimiter, f"\\{self._delimiter}")

    def _quoted(self, text: str) -> str:
        quote = self._command.quote
        if text != self._null and not any(each in text for each in (self._delimiter, quote, "\n", "\r")):
            return text
        return f"{quote}{text.replace(quote, quote * 2)}{quote}"
