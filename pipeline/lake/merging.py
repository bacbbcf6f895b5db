"""Merges staged rows into a table: of the rows of a key, the last one by sequence is kept, in any order of arrival.

Rows are ranked only by key and sequence. A file that keeps all of its rows is not rewritten, whether it is an existing
or a staged file; a file that loses a row is rewritten without it. So a merge reads the key columns of the files that
can contain one of the keys, and writes only those that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import duckdb
import pyarrow as pa

from pipeline.core.merge_options import Merge
from pipeline.core.staging import StagedFile
from pipeline.kernel.checks import origin_of
from pipeline.kernel.engine import arrow, connect, one
from pipeline.kernel.pool import configure
from pipeline.kernel.scan import DataFile, Scan, no_rows
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.lake.delta import LakeTable, Version
from pipeline.lake.merge_spec import MergeResult, MergeSpec, merge_connection, require_columns
from pipeline.lake.stager import DeltaStager

RANGES = 4096
"""Number of ranges that summarize the new keys, to find the files that can contain one of them."""
REWRITE_BYTES = 128 << 20
"""The target size of rewritten files."""
SMALL_BYTES = 16 << 20
"""Smaller staged files are rewritten together, so that merges do not leave small files."""
MAX_TOMBSTONE_FILES = 8
"""Maximum number of tombstone files; beyond that, they are combined into one."""
EQUAL_SEQUENCE = "equal_sequence"
"""Why a change is quarantined: another change of its key has the same sequence and is another one."""
_TIME_SLACK = "interval 1 millisecond"  # the Delta protocol allows maximum timestamps to be truncated to milliseconds


def merge(work: MergeSpec, quarantine: DeltaStager | None = None) -> MergeResult:
    """Rank the staged rows together with the table's rows, and rewrite the files that lose rows.

    Nothing is committed. The result does not depend on how rows are distributed over merges: a delete leaves a
    tombstone with its sequence, so an older row that arrives later is ignored. Of rows with the same key and sequence,
    a delete wins, otherwise the greatest row as text; the others are staged for the quarantine, if they are different, and if
    one is given. Memory is limited by `limits`; larger data spills to disk.

    Raises `DefinitionError` if the rows lack a required column, and `StorageError` if the store fails.
    """
    how = work.how
    if how is None:
        raise ValueError("rows that are merged have a sequence")
    require_columns(work, (*work.key, *how.sequence_by))
    problem = f"the deletes of table {work.table.name!r} cannot be determined"
    with merge_connection(work, problem, f"check apply_as_deletes={how.apply_as_deletes!r}") as con:
        return _merged(con, work, how, quarantine)


def replace_keys(work: MergeSpec, keys: Scan, names: tuple[str, ...]) -> MergeResult:
    """Replace all rows of the table that have one of the keys in `keys` by the staged rows.

    `names` are the columns of `keys` that correspond to `work.key` in the table. Nothing is committed.
    """
    if work.seen is None:
        raise ValueError("only rows of a table can be replaced")
    require_columns(work, work.key)
    with connect(work.limits, filesystem=work.table.storage.filesystem()) as con:
        configure(con, "preserve_insertion_order", "false")
        chosen = ", ".join(f"{quoted(name)} as k{number}" for number, name in enumerate(names))
        con.execute(f"create temp table _rows as select distinct {chosen} from ({keys.query()})")
        uris = [*(work.uri(file) for file in work.staged), *candidates(con, work, work.seen)]
        con.execute("create temp table _removed_rows (file bigint, row bigint, is_delete boolean)")
        if old := uris[len(work.staged) :]:
            con.execute(
                f"insert into _removed_rows select file, row, false from ({_read(work, old, 'false', len(work.staged))}) "
                f"semi join _rows using ({work.key_columns})"
            )
        files, removed = rewrite(con, work, uris)
    return MergeResult(files, removed, (), sum(file.rows for file in work.staged), 0, 0)


def _merged(con: duckdb.DuckDBPyConnection, work: MergeSpec, how: Merge, quarantine: DeltaStager | None) -> MergeResult:
    known = () if work.seen is None or work.seen.manifest is None else tuple(work.seen.manifest.tombstones)
    uris = [work.uri(file) for file in work.staged]
    _collect(con, work, how, uris)
    if work.seen is not None:
        uris += candidates(con, work, work.seen)
        _collect_old(con, work, uris[len(work.staged) :], [work.uri(file) for file in known])
    _rank(con, work, uris)
    new = len(work.staged)
    superseded, deletes = one(
        con,
        f"select count(*) filter (where file < {new} and not is_delete), count(*) filter (where is_delete) from _removed_rows",
    )
    con.execute("drop table _rows; drop table _several; drop table _ranked; drop table _tied")
    conflicts, total = one(con, "select count(*) filter (where is_new), count(*) from _conflicts")
    quarantined: tuple[StagedFile, ...] = ()
    if quarantine is None:
        conflicts = 0
    elif total:
        quarantined = quarantine.stage(con, conflict_rows(work.run_id, "_conflicts"), 0)
    files, removed = rewrite(con, work, uris)
    tombstones = _write_tombstones(con, work, known) if deletes else known
    rows = sum(file.rows for file in work.staged)
    out, others = rows - superseded - deletes, int(superseded) - int(conflicts)
    return MergeResult(files, removed, tombstones, out, others, int(deletes), quarantined, int(conflicts))


def candidates(con: duckdb.DuckDBPyConnection, work: MergeSpec, seen: Version) -> list[str]:
    """Return the files of a version whose bounds allow one of the keys in `_rows`."""
    if not seen.files:
        return []
    keys = work.key_columns
    ends = ", ".join(f"min(k{n}) as low_{n}, max(k{n}) as high_{n}" for n in range(len(work.key)))
    tiled = f"select *, ntile({RANGES}) over (order by {keys}) as tile from (select distinct {keys} from _rows)"
    ranges = arrow(con, f"select {ends} from ({tiled}) group by tile")
    return overlapping(work.table.bounds(seen, work.key), ranges)


def overlapping(bounds: pa.Table, ranges: pa.Table) -> list[str]:
    """Return the URIs of the files whose bounds overlap one of the key ranges in every column, in ascending order.

    `bounds` has the columns of `LakeTable.bounds`, null where a bound is unknown. `ranges` has `low_0`, `high_0`,
    `low_1` and so on, both inclusive. A file that is not returned contains none of the keys.
    """
    columns = range(bounds.num_columns // 2)
    with connect() as con:
        con.register("_bounds", bounds)
        con.register("_ranges", ranges)
        meets = [f"(b.min_{n} is null or r.high_{n} >= b.min_{n})" for n in columns]
        meets += [f"(b.max_{n} is null or r.low_{n} <= {_highest(bounds, n)})" for n in columns]
        result = con.execute(
            f"select uri from _bounds as b semi join _ranges as r on {' and '.join(meets)} order by uri"
        )
        return [str(row[0]) for row in result.fetchall()]


def _highest(bounds: pa.Table, number: int) -> str:
    is_time = pa.types.is_timestamp(bounds.schema.field(f"max_{number}").type)
    return f"b.max_{number} + {_TIME_SLACK}" if is_time else f"b.max_{number}"


def _collect(con: duckdb.DuckDBPyConnection, work: MergeSpec, how: Merge, uris: Sequence[str]) -> None:
    """Create `_rows` from the staged rows: key, sequence, whether deleted, and the file and row number."""
    if not uris:
        nothing = Scan(work.schema.select((*work.key, *how.sequence_by))).query()
        con.execute(
            f"create temp table _rows as select {work.columns}, false as gone, 0 as file, 0 as row from ({nothing})"
        )
        return
    is_delete = "false" if how.apply_as_deletes is None else f"coalesce(({how.apply_as_deletes}\n), false)"
    con.execute(f"create temp table _rows as {_read(work, uris, is_delete, 0)}")


def _collect_old(
    con: duckdb.DuckDBPyConnection, work: MergeSpec, uris: Sequence[str], tombstones: Sequence[str]
) -> None:
    """Add the table's rows with the keys in `_rows`, and their tombstones as file -1."""
    con.execute(f"create temp table _keys as select distinct {work.key_columns} from _rows")
    parts = [_read(work, uris, "false", len(work.staged))] if uris else []
    if tombstones:
        parts.append(f"select {work.key_columns}, s, true as gone, -1 as file, 0 as row from {parquet(tombstones)}")
    for part in parts:
        con.execute(f"insert into _rows select r.* from ({part}) as r semi join _keys using ({work.key_columns})")
    con.execute("drop table _keys")


def _read(work: MergeSpec, uris: Sequence[str], is_delete: str, first: int) -> str:
    return (
        f"select {work.columns}, {is_delete} as gone, file_index::bigint + {first} as file, file_row_number as row "
        f"from {parquet(uris)}"
    )


def read_keys(work: MergeSpec, uris: Sequence[str], first: int) -> str:
    """Return a SELECT of the keys of files, with the numbers of the files, from `first` on, and of the rows."""
    return _read(replace(work, how=None), uris, "false", first)


def parquet(uris: Sequence[str]) -> str:
    """Return a call of `read_parquet` on files."""
    return f"read_parquet([{', '.join(map(literal, uris))}], union_by_name = true, hive_partitioning = false)"


def _rank(con: duckdb.DuckDBPyConnection, work: MergeSpec, uris: Sequence[str]) -> None:
    """Create `_removed_rows` with the rows to remove, and `_deleted` with the deleted keys and their sequence.

    Only keys with several rows are sorted; a single row is the last of its key.
    """
    keys = work.key_columns
    con.execute(f"create temp table _several as select {keys} from _rows group by {keys} having count(*) > 1")
    con.execute(
        f"create temp table _ranked as select r.*, "
        f"rank() over (partition by {keys} order by s desc, gone desc) as place "
        f"from _rows as r semi join _several using ({keys})"
    )
    con.execute("create temp table _removed_rows (file bigint, row bigint, is_delete boolean)")
    con.execute("insert into _removed_rows select file, row, false from _ranked where place > 1 and file >= 0")
    con.execute(
        f"insert into _removed_rows select file, row, false from _ranked where place = 1 and gone "
        f"qualify row_number() over (partition by {keys} order by file, row) > 1"
    )
    _break_ties(con, work, uris)
    con.execute(
        f"create temp table _deleted as select {keys}, s, file, row from _ranked where place = 1 and gone "
        f"qualify row_number() over (partition by {keys} order by file, row) = 1 "
        f"union all select {keys}, s, file, row from _rows as r anti join _several using ({keys}) where gone"
    )
    con.execute("delete from _deleted where file < 0")  # an existing tombstone
    con.execute("insert into _removed_rows select file, row, true from _deleted")


def _break_ties(con: duckdb.DuckDBPyConnection, work: MergeSpec, uris: Sequence[str]) -> None:
    """Among the last rows of a key with equal sequence, keep the greatest row as text."""
    keys = work.key_columns
    con.execute("create temp table _conflicts (json varchar, source varchar, position bigint, is_new boolean)")
    con.execute(
        f"create temp table _tied as select {keys}, file, row from _ranked where place = 1 and not gone "
        f"qualify count(*) over (partition by {keys}) > 1"
    )
    numbers = [int(row[0]) for row in con.execute("select distinct file from _tied order by file").fetchall()]
    if not numbers:
        return
    local = ", ".join(f"({index}, {number})" for index, number in enumerate(numbers))
    packed = f"struct_pack({', '.join(f'{quoted(n)} := {quoted(n)}' for n in work.schema.names)})"
    source, position = origin_of(work.schema.names)
    in_order = f"(partition by {keys} order by content desc, t.file, t.row)"
    con.execute(
        f"create temp table _placed as select t.file, t.row, content, json, source, position, row_number() over {in_order} as place, "
        f"first_value(content) over {in_order} as winner, first_value(t.file) over {in_order} as winner_file from _tied as t "
        f"join (values {local}) as f(i, file) on f.file = t.file "
        f"join (select file_index as i, file_row_number as row, {packed}::varchar as content, to_json({packed})::varchar as json, "
        f"{source} as source, {position} as position from ("
        f"{no_rows(work.schema)} union all by name select *, file_index, file_row_number "
        f"from {parquet([uris[n] for n in numbers])})) as p on p.i = f.i and p.row = t.row"
    )
    con.execute("insert into _removed_rows select file, row, false from _placed where place > 1")
    new = len(work.staged)
    con.execute(
        f"insert into _conflicts select json, source, position, file < {new} from _placed "
        f"where content <> winner and (file < {new} or winner_file < {new})"
    )


def conflict_rows(run_id: str, rows: str) -> str:
    """Return rows of the quarantine for changes that have the sequence of another one. `rows` has `json`, `source`, `position`."""
    return (
        f"select '{EQUAL_SEQUENCE}' as reasons, source as _source, position as _position, json as row, "
        f"{literal(run_id)} as _run, now() as _quarantined_at from {rows}"
    )


def rewrite(
    con: duckdb.DuckDBPyConnection, work: MergeSpec, uris: Sequence[str]
) -> tuple[tuple[StagedFile, ...], frozenset[str]]:
    """Rewrite the files that contain removed rows; return the new files and the files that they replace."""
    losing = {int(row[0]) for row in con.execute("select distinct file from _removed_rows").fetchall()}
    new = len(work.staged)
    if any(number >= new for number in losing):
        losing |= {number for number, file in enumerate(work.staged) if file.size_bytes < SMALL_BYTES}
    kept = tuple(file for number, file in enumerate(work.staged) if number not in losing)
    stager = DeltaStager(work.table.storage, f"{work.run_id}-merged", work.table.partition_by)
    written: list[StagedFile] = []
    for split, group in enumerate(_groups(work, uris, losing)):
        written.extend(stager.stage(con, _without(work, uris, group), split))
    work.table.storage.remove([work.staged[number].path for number in losing if number < new])
    return (*kept, *written), frozenset(uris[number] for number in losing if number >= new)


def _groups(work: MergeSpec, uris: Sequence[str], losing: set[int]) -> list[list[int]]:
    """Return groups of file numbers to rewrite, each into one file; the order of files is kept."""
    sizes = {work.uri(file): file.size_bytes for file in work.staged}
    sizes |= {} if work.seen is None else {file.uri: file.size_bytes for file in work.seen.files}
    numbers = {uris[number]: number for number in losing}
    files = tuple(DataFile(uri, 0, sizes[uri]) for uri in sorted(numbers))
    parts = Scan(work.schema, files).splits(REWRITE_BYTES) if files else ()
    return [[numbers[file.uri] for file in part.files] for part in parts]


def _without(work: MergeSpec, uris: Sequence[str], group: Sequence[int]) -> str:
    local = ", ".join(f"({index}, {number})" for index, number in enumerate(group))
    files = f"select *, file_index as _i, file_row_number as _row from {parquet([uris[n] for n in group])}"
    return (
        f"select {listed(work.schema.names)} from "
        f"({no_rows(work.schema)} union all by name {files}) as kept "  # older files may lack columns
        f"anti join (select f.i as _i, a.row as _row from _removed_rows as a join (values {local}) as f(i, file) using (file)) "
        f"using (_i, _row)"
    )


def _write_tombstones(
    con: duckdb.DuckDBPyConnection, work: MergeSpec, known: tuple[StagedFile, ...]
) -> tuple[StagedFile, ...]:
    """Write the tombstones of the keys deleted by this merge; combine all tombstones if there are too many files."""
    rows = f"select {work.key_columns}, s from _deleted"
    if len(known) + 1 > MAX_TOMBSTONE_FILES:
        before = f"select {work.key_columns}, s from {parquet([work.uri(file) for file in known])}"
        rows = f"select {work.key_columns}, max(s) as s from ({rows} union all {before}) group by {work.key_columns}"
        known = ()
    return (*known, *_staged_tombstones(con, work.table, work.run_id, rows))


def tombstones_without(
    table: LakeTable, known: tuple[StagedFile, ...], condition: str, run_id: str
) -> tuple[StagedFile, ...]:
    """Return tombstones without those that satisfy a condition on the key columns `k0`, `k1` and so on, in one file.

    Returns the given files if none satisfies it. Raises `StorageError` if the store fails.
    """
    if not known:
        return ()
    with connect(filesystem=table.storage.filesystem()) as con:
        every = parquet([f"{table.storage.uri}/{file.path}" for file in known])
        if not one(con, f"select count(*) from {every} where {condition}")[0]:
            return known
        return _staged_tombstones(con, table, run_id, f"select * from {every} where not coalesce({condition}, false)")


def _staged_tombstones(
    con: duckdb.DuckDBPyConnection, table: LakeTable, run_id: str, rows: str
) -> tuple[StagedFile, ...]:
    written = DeltaStager(table.storage.at("_headwater"), f"{run_id}-tombstones").stage(con, rows, 0)
    return tuple(StagedFile(f"_headwater/{f.path}", f.size_bytes, f.rows, {}, "") for f in written)
