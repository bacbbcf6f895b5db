"""The errors of Headwater, classified by what the caller can do.

    HeadwaterError
    ├── StopError             the same call will fail again: change something first
    │   ├── DefinitionError   a definition is invalid; no data was read
    │   ├── SettingsError     headwater.toml or an environment variable is invalid
    │   ├── RequestError      a name or an option passed to a command or an endpoint is invalid
    │   ├── SourceError       a source cannot be read as declared
    │   │   └── SplitError    a part of a file cannot be read separately: read the entire file
    │   ├── SchemaError       data does not match its contract
    │   │   ├── NewColumnsError   data has columns that its contract does not have yet: derive the contract again
    │   │   └── WiderTypesError   data has values that wider types of its columns can represent: widen them, read again
    │   ├── ExpectationError  a `fail` expectation was violated
    │   ├── ModelError        a model cannot be trained or evaluated
    │   ├── SinkError         a sink cannot write the rows of its table; the table itself is intact
    │   └── StorageError      a lake, warehouse or catalog cannot be read or written
    │       └── IncompatibleStateError   the current definition cannot continue from the last commit of the stream
    ├── OrderError            new rows cannot be appended to the existing rows: rebuild the table
    ├── UnavailableError      a system is temporarily unavailable: wait and retry
    │   ├── SourceUnavailableError    is also a SourceError, so that it is handled as one
    │   └── StorageUnavailableError   is also a StorageError, so that it is handled as one
    ├── ConflictError         another writer committed first: reload and retry
    └── OutcomeUnknownError   a commit was sent and not answered: reload and compare

A message has four parts, of which only the first is required: the problem with its cause, the value received (a noun, not a
sentence, because it follows "got"), what to do, and the place. Errors keep these parts when they are pickled, because Ray sends them between processes.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Place:
    """A file and, if known, a 1-based line, as shown in error messages."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        """Return `file:line`, or only `file` if the line is unknown."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


class HeadwaterError(Exception):
    """The base class: `problem`, and optionally the value it `got`, what to `do`, and `place`."""

    def __init__(
        self, problem: str, *, got: str | None = None, do: str | None = None, place: Place | None = None
    ) -> None:
        """Store the parts; the message is formatted on demand."""
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
    """A retry cannot succeed; something must be changed first."""


class DefinitionError(StopError):
    """A definition is invalid. Raised before any data is read."""


class SettingsError(StopError):
    """`headwater.toml` or an environment variable is invalid."""


class RequestError(StopError):
    """A name or an option passed to a command or an endpoint is invalid."""


class SourceError(StopError):
    """A source cannot be read as declared."""


class SplitError(SourceError):
    """A part of a file cannot be read separately. Discard the rows of its other parts and read the entire file."""


class SchemaError(StopError):
    """Data does not match its contract."""


class NewColumnsError(SchemaError):
    """Data has columns that its contract does not have yet; the next run or start of the stream derives a new contract."""


class WiderTypesError(SchemaError):
    """Data has values that only wider types can represent: `columns` are the names of their columns with these types."""

    columns: Mapping[str, str]

    @classmethod
    def of(cls, columns: Mapping[str, str], place: Place) -> WiderTypesError:
        """Return the error for columns with their wider types."""
        error = cls(
            "some values need wider types", got=few(f"{n!r} as {kind}" for n, kind in columns.items()), place=place
        )
        error.columns = dict(columns)
        return error

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the parts and the columns."""
        return (*super().__reduce__(), self.__dict__)


class ExpectationError(StopError):
    """A `fail` expectation was violated; nothing of the table was committed."""


class ModelError(StopError):
    """A model cannot be trained or evaluated on its rows."""


class SinkError(StopError):
    """A sink cannot write rows. Its table is intact, and outstanding rows are sent on the next delivery."""


class StorageError(StopError):
    """A lake, warehouse or catalog cannot be read or written."""


class IncompatibleStateError(StorageError):
    """A stream cannot continue from its last commit, because its definition or the columns of its inputs changed."""


class OrderError(HeadwaterError):
    """New rows may precede existing rows, have additional columns, or be too many to be added to aggregates.

    A run then rebuilds the table.
    """


class UnavailableError(HeadwaterError):
    """A system is temporarily unavailable. Wait and retry; nothing needs to be changed."""


class SourceUnavailableError(UnavailableError, SourceError):
    """The system that a source reads is temporarily unavailable."""


class StorageUnavailableError(UnavailableError, StorageError):
    """A lake, warehouse or catalog is temporarily unavailable."""


class ConflictError(HeadwaterError):
    """Another writer committed first. Reload and decide again."""


class OutcomeUnknownError(HeadwaterError):
    """A commit was sent and its response was lost. Reload and compare before doing anything else."""


USER_CODE_ERRORS = (Exception, SystemExit)
"""What code of the project may raise: `sys.exit` in a function must fail its table, and not end the run as if it had succeeded."""


def quantity(number: int, noun: str) -> str:
    """Return a number with its noun: `1 row`, `1,234 rows`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def few(names: Iterable[str], most: int = 5) -> str:
    """Return the first names and the number of remaining names, to keep a message short."""
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def printable(text: str) -> str:
    """Return a text with lone surrogates escaped, so that it can be encoded."""
    return text.encode("utf-8", "backslashreplace").decode()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the closest known name, otherwise the known names; used as `do` of an error."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    if not names:
        return "none is defined yet"
    return f"known: {few(map(repr, names), 12)}"
