"""What can go wrong, sorted by what the caller can do about it.

    HeadwaterError
    ├── StopError             the same call will fail again: change something first
    │   ├── DefinitionError   a definition is wrong; no data has moved
    │   ├── SettingsError     headwater.toml or the environment is wrong
    │   ├── RequestError      a name or an option given to a command or an endpoint is wrong
    │   ├── SourceError       a source cannot be read as it was declared
    │   │   └── SplitError    a part of a file cannot be read by itself: read the file whole
    │   ├── SchemaError       data has another shape than its contract
    │   │   └── NewColumnsError   data has columns that its contract will have once it is read from what there is now
    │   ├── ExpectationError  a `fail` expectation was violated
    │   ├── ModelError        a model cannot be trained or judged
    │   ├── SinkError         a sink does not take the rows of its table; the table is as it should be
    │   └── StorageError      a lake, warehouse or catalog cannot be read or written
    │       └── IncompatibleStateError   a stream cannot go on from its last commit with its definition of today
    ├── OrderError            new rows cannot just join those that are there: make the table anew
    ├── UnavailableError      a system does not answer now: wait and try again
    │   ├── SourceUnavailableError    which is a SourceError, too
    │   └── StorageUnavailableError   which is a StorageError, too
    ├── ConflictError         somebody else committed first: reload and try again
    └── OutcomeUnknownError   a commit was sent and no answer came: reload and compare

Every error is one message in four parts, of which only the first is always there: what is wrong, what was
got, what to do, and where. They survive pickling with their parts, because Ray ships them between processes.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Place:
    """A file and, where known, a line (1-based), as an error message names them."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        """Return `file:line`, or `file` alone when the line is not known."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


class HeadwaterError(Exception):
    """The root of the tree: `problem`, and optionally what was `got`, what to `do` and `place`."""

    def __init__(
        self, problem: str, *, got: str | None = None, do: str | None = None, place: Place | None = None
    ) -> None:
        """Keep the parts; the message is put together when it is printed."""
        super().__init__(problem)
        self.problem = problem
        self.got = got
        self.do = do
        self.place = place

    def __str__(self) -> str:
        """Return the parts as one sentence: `problem: got …; do (place)`."""
        text = self.problem
        if self.got is not None:
            text += f": got {self.got}"
        if self.do is not None:
            text += f"; {self.do}"
        if self.place is not None:
            text += f" ({self.place})"
        return printable(text)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the parts."""
        return _rebuild, (type(self), self.problem, self.got, self.do, self.place)


def _rebuild(
    kind: type[HeadwaterError], problem: str, got: str | None, do: str | None, place: Place | None
) -> HeadwaterError:
    return kind(problem, got=got, do=do, place=place)


class StopError(HeadwaterError):
    """Trying again will not help; something has to be changed first."""


class DefinitionError(StopError):
    """A definition is wrong. Raised before any data moves."""


class SettingsError(StopError):
    """`headwater.toml` or an environment variable is wrong."""


class RequestError(StopError):
    """A name or an option given to a command or an endpoint is wrong."""


class SourceError(StopError):
    """A source cannot be read as it was declared."""


class SplitError(SourceError):
    """A part of a file cannot be read by itself. Drop what its other parts gave and read the file whole."""


class SchemaError(StopError):
    """Data has another shape than its contract allows."""


class NewColumnsError(SchemaError):
    """Data has columns that a contract does not have yet: decide on it anew, which a run and a start of a stream do."""


class ExpectationError(StopError):
    """A `fail` expectation was violated; nothing of the table was committed."""


class ModelError(StopError):
    """A model cannot be trained or judged on the rows it was given."""


class SinkError(StopError):
    """A sink does not take rows. Its table is as it should be, and what is missing is sent the next time."""


class StorageError(StopError):
    """A lake, warehouse or catalog cannot be read or written."""


class IncompatibleStateError(StorageError):
    """A stream cannot go on from its last commit: its definition, or the columns of its inputs, changed since."""


class OrderError(HeadwaterError):
    """New rows may belong before those that are there, or have more columns: a run makes the table anew then."""


class UnavailableError(HeadwaterError):
    """A system does not answer now. Wait and try again; nothing has to be changed."""


class SourceUnavailableError(UnavailableError, SourceError):
    """The system that a source reads does not answer now."""


class StorageUnavailableError(UnavailableError, StorageError):
    """A lake, warehouse or catalog does not answer now."""


class ConflictError(HeadwaterError):
    """Another writer committed first. Reload and decide again."""


class OutcomeUnknownError(HeadwaterError):
    """A commit was sent and its answer was lost. Reload and compare before anything else."""


def few(names: Iterable[str], most: int = 5) -> str:
    """Return the first names and how many more there are, for a message that is to stay short."""
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def printable(text: str) -> str:
    """Return a text with escapes for what no encoding has, as half of a pair of UTF-16, so that it can be written anywhere."""
    return text.encode("utf-8", "backslashreplace").decode()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the nearest of `known`, else the known names, for an error's `do`."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    if not names:
        return "nothing is defined yet"
    return f"known: {few(map(repr, names), 12)}"
