"""The order of rows in compacted files: by one column, or along a Z-order curve of several.

Parquet files have bounds of each column per row group, so a condition on a column skips the row groups whose values lie apart. An
order by several columns does that for the first only; on a Z-order curve, each of them has bounds that are narrower
by about the n-th root.
"""

from __future__ import annotations

from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import listed, quoted

BITS = 10
"""The bits of each column in the curve: its rows are divided into this power of two of groups, in which equal values stay together."""


def clustered(scan: Scan, columns: tuple[str, ...]) -> str:
    """Return a SELECT of the rows of a scan, ordered by those columns that it has."""
    known = tuple(name for name in columns if name in scan.schema.names)
    if not known:
        return scan.query()
    if len(known) == 1:
        return f"select * from ({scan.query()}) order by {quoted(known[0])}"
    ranks = ", ".join(
        f"((rank() over (order by {quoted(name)}) - 1) * {1 << BITS}) // count(*) over () as _hw_rank_{number}"
        for number, name in enumerate(known)
    )
    return (
        f"select {listed(scan.schema.names)} from (select *, {ranks} from ({scan.query()})) "
        f"order by {_interleaved(len(known))}"
    )


def _interleaved(columns: int) -> str:
    """Return the number whose bits are those of the ranks, taken in turn; the first column has the highest."""
    return " + ".join(
        f"(((_hw_rank_{number} >> {bit}) & 1)::hugeint << {bit * columns + columns - 1 - number})"
        for bit in range(BITS)
        for number in range(columns)
    )
