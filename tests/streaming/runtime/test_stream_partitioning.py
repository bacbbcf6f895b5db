"""A stream goes on from its last commit when the partitioning of its table changes."""

from __future__ import annotations

from pipeline.lake import former_files
from pipeline.lake.history import history
from pipeline.streaming.runtime.verify import verify
from tests.streaming.runtime.test_stream_new_columns import put

PLANT = """
from pipeline import files, source, sql
raw = source(files("data/*.csv"), event_time="moment", schema={"moment": "timestamp", "id": "bigint", "v": "integer"})
rows = sql("select id, moment, v from raw", partition_by="v")
by_id = sql("select id, max(v) as v, max(moment) as last from raw group by all", key="id", partition_by="v")
"""
HEAD = "moment,id,v\n"


def test_a_stream_goes_on_with_another_partitioning(plant, streams):
    folder = plant(text=PLANT)
    (folder / "data").mkdir(exist_ok=True)
    put(folder, "f1.csv", f"{HEAD}2024-01-01 00:00:00,1,1\n2024-01-02 00:10:00,2,2\n2024-01-03 00:00:00,3,2\n")
    streams.start(folder, until_caught_up=True).run()
    text = (folder / "plant.py").read_text()
    text = text.replace('from raw", partition_by="v"', 'from raw", partition_by=["day(moment)", "bucket(4, id)"]')
    (folder / "plant.py").write_text(text.replace('key="id", partition_by="v"', 'key="id", partition_by="month(last)"'))
    put(folder, "f2.csv", f"{HEAD}2024-01-04 00:00:00,1,7\n2024-02-05 00:10:00,2,0\n2024-02-05 00:20:00,9,0\n")
    streams.start(folder, until_caught_up=True).run()

    assert [(i, v) for i, v in streams.rows(folder, "rows", "id, v")] == [
        (1, 1),
        (1, 7),
        (2, 0),
        (2, 2),
        (3, 2),
        (9, 0),
    ]
    assert [(i, v) for i, v in streams.rows(folder, "by_id", "id, v")] == [(1, 7), (2, 2), (3, 2), (9, 0)]
    workspace = streams.opened(folder)
    for name in ("rows", "by_id"):
        table = workspace.table(name)
        modes = [each.mode for each in history(table.storage)]
        assert (modes.count("overwrite"), modes.count("partitioning")) == (0, 1)
        assert verify(workspace, name).holds
    table = workspace.table("rows")
    assert (len(former_files(table, table.version())), len(table.version().files)) == (2, 5)
