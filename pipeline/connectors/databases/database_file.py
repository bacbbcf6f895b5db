"""What databases in a file have in common: where it is, when it changed, and the errors of its library."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from pipeline.connectors.databases.sessions import StandardSql
from pipeline.core.errors import Place, SourceError, SourceUnavailableError


@dataclass(frozen=True)
class DatabaseFile(StandardSql):
    """A database in a file. See `SqlDatabase`."""

    path: str
    name: ClassVar[str]
    log: ClassVar[str]
    """What the name of the file of the log ends with."""
    locked: ClassVar[str]
    """The error while another process writes."""

    @property
    def system(self) -> str:
        """The name of the system."""
        return self.name

    @property
    def uri(self) -> str:
        """The path as a URI."""
        return f"{self.name.lower()}://{Path(self.path).absolute()}"

    def within(self, folder: Path) -> Self:
        """Return the file with a relative path resolved against a folder."""
        return replace(self, path=str(folder / self.path))

    def require(self) -> None:
        """Raise `SourceError` if the file does not exist."""
        if not Path(self.path).is_file():
            raise SourceError(f"there is no such {self.name} file", do="check the path", place=Place(self.path))

    def stamp(self) -> str:
        """Return size and time of the file and of its log; every commit changes one of them."""
        stats = [Path(self.path + end).stat() for end in ("", self.log) if Path(self.path + end).exists()]
        return ",".join(f"{each.st_size}-{each.st_mtime_ns}" for each in stats)

    def refused(self, text: str) -> SourceError:
        """Return the error for what the library said."""
        if "lock" in text.lower() or "busy" in text.lower():
            return SourceUnavailableError(self.locked, got=text, place=Place(self.path))
        do = "check the table and the query"
        return SourceError(f"the {self.name} file cannot be read", got=text, do=do, place=Place(self.path))
