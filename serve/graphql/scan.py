"""Bounds of a document, checked on its text: what is refused here is never parsed.

Parsing and validating cost more than the text suggests: 300 equal fields take a validator seconds. One pass over the tokens counts
what makes documents expensive, and ends at the first bound that is exceeded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from serve.http_errors import HttpError, TooLargeError

MOST_DOCUMENT_BYTES = 20_000
MOST_TOKENS = 1_500
MOST_DEPTH = 24
"""The most brackets within each other, of any kind."""
MOST_SIBLINGS = 250
"""The most fields in one pair of braces."""
MOST_REPEATS = 10
"""How often a field may be in one pair of braces."""
MOST_ALIASES = 50
MOST_DIRECTIVES = 30
MOST_FRAGMENTS = 50
"""The most places where a fragment is used, with and without a name."""
MOST_DEFINITIONS = 40
"""The most operations and fragments of a document."""
_TOKEN = re.compile(
    r"(?:[\s,\ufeff]|\#[^\n\r]*+)*+"  # ignored: white space, commas and comments
    r"(?:"
    r'(?P<text>"""(?:[^"\\]|\\"""|\\|"(?!""))*+"""|"(?!"")(?:[^"\\\n\r]|\\.)*+")'
    r"|(?P<name>[_A-Za-z][_0-9A-Za-z]*+)"
    r"|(?P<number>-?[0-9][0-9.eE+-]*+)"
    r"|(?P<spread>\.\.\.)"
    r"|(?P<other>[\s\S])"
    r")?"
)
_OPENING, _CLOSING = {"{": "}", "(": ")", "[": "]"}, frozenset("})]")


@dataclass
class _Braces:
    """The fields between braces, if these are of a selection."""

    is_selection: bool
    closing: str
    siblings: int = 0
    names: dict[str, int] = field(default_factory=dict)


def require_bounds(document: str) -> None:
    """Raise `HttpError` for a document that exceeds a bound. The part after a mistake that ends every parser is not looked at."""
    if len(document) > MOST_DOCUMENT_BYTES or len(document.encode("utf-8", "replace")) > MOST_DOCUMENT_BYTES:
        raise TooLargeError(f"the document is longer than {MOST_DOCUMENT_BYTES} bytes", do="split it, or use variables")
    _Scan(document).run()


class _Scan:
    """One pass over the tokens of a document."""

    def __init__(self, document: str) -> None:
        self._document = document
        self._open: list[_Braces] = []
        self._tokens = self._aliases = self._directives = self._fragments = self._definitions = 0
        self._before = ""

    def run(self) -> None:
        at, end = 0, len(self._document)
        while at < end:
            token = _TOKEN.match(self._document, at)
            assert token is not None  # noqa: S101 - every part of the expression is optional
            at = token.end()
            if token.lastgroup is None:
                break  # only white space was left
            self._tokens = _counted(self._tokens, MOST_TOKENS, "tokens")
            text = token[token.lastgroup]
            if token.lastgroup == "name":
                self._name(text)
            elif token.lastgroup == "spread":
                self._fragments = _counted(self._fragments, MOST_FRAGMENTS, "fragments in use")
            elif token.lastgroup == "other":
                if text == '"' or (text in _CLOSING and not self._closes(text)):
                    return  # a text without an end, or a bracket that closes nothing: a parser fails here
                self._punctuation(text)
            is_condition = text == "on" and self._before == "..."
            self._before = "..." if is_condition else text  # the name after it is that of a type

    def _name(self, text: str) -> None:
        if not self._open or not self._open[-1].is_selection or self._before in {":", "@", "..."}:
            return
        braces = self._open[-1]
        braces.siblings = _counted(braces.siblings, MOST_SIBLINGS, "fields in one pair of braces")
        braces.names[text] = _counted(braces.names.get(text, 0), MOST_REPEATS, "fields of the same name in one place")

    def _closes(self, text: str) -> bool:
        return bool(self._open) and self._open.pop().closing == text

    def _punctuation(self, text: str) -> None:
        if text in _OPENING:
            is_selection = text == "{" and all(each.is_selection for each in self._open)
            if is_selection and not self._open:
                self._definitions = _counted(self._definitions, MOST_DEFINITIONS, "operations and fragments")
            self._open.append(_Braces(is_selection, _OPENING[text]))
            if len(self._open) > MOST_DEPTH:
                raise _exceeded(MOST_DEPTH, "brackets within each other")
        elif text == "@":
            self._directives = _counted(self._directives, MOST_DIRECTIVES, "directives")
        elif text == ":" and self._open and self._open[-1].is_selection:
            self._aliases = _counted(self._aliases, MOST_ALIASES, "aliases")


def _counted(number: int, most: int, what: str) -> int:
    if number >= most:
        raise _exceeded(most, what)
    return number + 1


def _exceeded(most: int, what: str) -> HttpError:
    return HttpError(f"the document has more than {most} {what}", do="split it, or use variables")
