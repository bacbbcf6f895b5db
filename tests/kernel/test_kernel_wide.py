"""Wide tables: optimizers with quadratic cost in the number of columns are disabled."""

from __future__ import annotations

import pytest

from pipeline import files
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import WIDE, connect, expect_columns


@pytest.mark.parametrize(
    ("columns", "disabled"), [(WIDE, {""}), (WIDE + 1, {"common_subexpressions", "statistics_propagation"})]
)
def test_quadratic_optimizers_are_disabled_only_for_wide_tables(columns, disabled):
    with connect() as con:
        expect_columns(con, columns)
        (setting,) = con.execute("select coalesce(current_setting('disabled_optimizers'), '')").fetchone()
        assert set(setting.split(",")) == disabled


def test_a_wide_file_with_a_bad_value_is_read_like_a_narrow_one(tmp_path):
    names = [f"c{n}" for n in range(WIDE + 50)]
    good, bad = [str(n) for n in range(len(names))], ["x" if n == WIDE else str(n) for n in range(len(names))]
    (tmp_path / "a.csv").write_text("\n".join(",".join(line) for line in (names, good, bad)) + "\n")
    reader = files(tmp_path / "a.csv")

    reading = reader.read(SourceSplit(reader.source_objects()[0]), Schema.of(dict.fromkeys(names, "BIGINT")))

    assert reading.rows.select(names).to_pylist() == [dict(zip(names, range(len(names)), strict=True))]
    assert reading.rejected.column("reason").to_pylist() == [f"column 'c{WIDE}' is not BIGINT: x"]
