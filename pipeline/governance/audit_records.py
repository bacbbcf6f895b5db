"""The files of the audit log: a line of JSON for each request, with the hash of the line before it.

`audit/<environment>/<day>/<time>-<replica>.jsonl` in the project's state. A line that was changed, added or removed in the middle of a
file does not fit the lines after it; the end of a file can only be missed by who knows how long it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import StorageError
from pipeline.core.format_versions import require_known

FORMAT_VERSION = 1
FIRST = "0" * 64
"""The hash before the first line of a file."""
_encoded = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True)
class Damage:
    """A line that does not fit the one before it, or cannot be read."""

    file: Path
    line: int
    """From 1."""
    problem: str


def sealed(record: Mapping[str, Any], previous: str) -> tuple[str, str]:
    """Return the line of a record that follows the line with a hash, and its own hash."""
    content = _encoded({"format": FORMAT_VERSION, **record, "previous": previous})
    digest = hashlib.sha256(content.encode()).hexdigest()
    return f'{content[:-1]},"hash":"{digest}"}}\n', digest


def records(folder: Path, day: str | None = None) -> Iterator[Mapping[str, Any]]:
    """Yield the records of an environment, or of a day of it such as 2026-05-01, the oldest of each file first.

    Raises `StorageError` for a line that cannot be read; `verify` names all of them.
    """
    for file in _files(folder, day):
        for number, line in enumerate(_lines(file), 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise StorageError(
                    f"line {number} of the audit log {file} cannot be read", do="run `headwater audit verify`"
                ) from error
            require_known(record.get("format"), FORMAT_VERSION, "the audit log", "upgrade Headwater")
            yield record


def verify(folder: Path, day: str | None = None) -> tuple[int, list[Damage]]:
    """Return the number of records, and the lines that do not fit the one before them."""
    count, damages = 0, []
    for file in _files(folder, day):
        previous = FIRST
        for number, line in enumerate(_lines(file), 1):
            count += 1
            content, _, rest = line.rpartition(',"hash":"')
            digest = hashlib.sha256(f"{content}}}".encode()).hexdigest()
            if rest != f'{digest}"}}':
                damages.append(Damage(file, number, "the line was changed"))
                previous = ""
                continue
            if previous and not content.endswith(f',"previous":"{previous}"'):
                damages.append(Damage(file, number, "the line before it was changed, added or removed"))
            previous = digest
    return count, damages


def _files(folder: Path, day: str | None) -> list[Path]:
    return sorted(folder.glob(f"{day or '*'}/*.jsonl"), key=lambda file: (file.parent.name, file.name))


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield line.rstrip("\n")
