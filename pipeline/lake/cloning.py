"""Clones a version of a table into another lake: the same files, log and metadata, so that runs and streams go on from there.

On one disk, immutable files are hard links, which take no space; within one object store, the store copies them. Both
tables are independent from then on.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pipeline.lake.delta import Version
from pipeline.lake.holds import FOLDER as HOLDS
from pipeline.lake.log_files import number_of
from pipeline.lake.maintenance_claims import FOLDER as CLAIMS
from pipeline.lake.storage import Storage

_AT_ONCE = 16
_STAY = (HOLDS, CLAIMS, "_headwater/savepoints/")
"""The folders that a clone does not have."""


def clone(source: Storage, version: Version, to: Storage) -> int:
    """Clone a table at a version to an empty location, and return the number of its files.

    The log is written last and from its end, so a table whose clone was interrupted cannot be read. Holds, claims of
    its maintenance and savepoints stay with the source. Raises `StorageError` if a store fails, and if the source is vacuumed in the meantime.
    """
    names = frozenset(source.names())
    data = {file.uri.removeprefix(f"{source.uri}/") for file in version.files}
    metadata = {name for name in names if name.startswith("_headwater/") and not name.startswith(_STAY)}
    log = [name for name in names if name.startswith("_delta_log/") and 0 <= number_of(name) <= version.number]
    with ThreadPoolExecutor(1 if to.is_local else _AT_ONCE) as pool:
        for _ in pool.map(partial(to.copy, source), sorted(data | metadata)):
            pass
    to.sync(sorted(data | metadata))  # a link is not durable yet
    for name in sorted(log, key=lambda name: (".checkpoint" in name, -number_of(name))):
        to.copy(source, name)
    return len(data)
