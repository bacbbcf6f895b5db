"""Where the rows of a source come from: systems and objects, as recorded with the rows themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.definitions import Source
from pipeline.core.sources import SOURCE
from pipeline.project.contracts import own_columns
from pipeline.project.workspace import Workspace

_LOCAL = "file"


@dataclass(frozen=True)
class SourceOrigin:
    """A system, by the scheme of its addresses, the first and last of the objects that were read, and their columns."""

    system: str
    """`file`, `s3`, `postgresql`, `kafka`, `https` and so on."""
    objects: Sequence[str]
    """In order; those between the first and the last objects of a file of the table are not listed."""
    columns: Sequence[str]
    owner: str = ""


def origins(workspace: Workspace, source: Source) -> tuple[SourceOrigin, ...]:
    """Return the systems that the rows of a source's table come from; none if it was not read yet.

    The objects are those in the statistics of the table's files, so no rows are read.
    """
    version = workspace.version(source.name, lenient=True)
    if version is None or not version.files:
        return ()
    bounds = workspace.table(source.name).bounds(version, (SOURCE,))
    found = {uri for name in ("min_0", "max_0") for uri in bounds[name].to_pylist() if uri}
    columns = own_columns(version.schema).names
    by_system: dict[str, list[str]] = {}
    for uri in sorted(found):
        scheme, separator, place = uri.partition("://")
        by_system.setdefault(scheme if separator else _LOCAL, []).append(place if separator else uri)
    return tuple(SourceOrigin(system, objects, columns, source.owner) for system, objects in sorted(by_system.items()))
