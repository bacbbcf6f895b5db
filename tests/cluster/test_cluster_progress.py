"""`headwater run` shows a bar for the run, and one for the current stage of each long step."""

from __future__ import annotations

from io import StringIO

from rich.console import Console
from rich.progress import Progress

from cluster.cli.run_progress import RunProgress
from pipeline.commit.moments import Moment
from pipeline.governance import StepRecord
from pipeline.runner.events import Event, StepProgress


def test_bars_show_the_stage_of_each_step():
    progress = Progress(console=Console(file=StringIO(), force_terminal=True, width=120))
    watch = RunProgress(progress, 3, {"orders": 0.0, "days": 100.0, "names": 0.0})

    def shown() -> list[tuple[str, float]]:
        return [(task.description, task.percentage) for task in progress.tasks]

    def at(moment: Moment, name: str, **parts: object) -> None:
        watch(Event(moment, "run", name, **parts))

    at(Moment.DECIDED, "names")
    assert shown() == [("run: names", 0.0)]  # a short step has no bar of its own
    at(Moment.DECIDED, "orders")
    at(Moment.WORKING, "orders", work=StepProgress(0.25, 1000, 10**6, "partition"))
    assert shown() == [("run: names", 0.0), ("orders: partition", 25.0)]
    assert progress.tasks[1].fields["done"].startswith("25%, 250 rows, ")
    assert progress.tasks[0].fields["done"] == "0/3, about 100 s left"
    at(Moment.WORKING, "orders", work=StepProgress(0.75, 1000, 10**6, "compute buckets"))
    assert shown() == [("run: names", 0.0), ("orders: compute buckets", 75.0)]
    at(Moment.STAGED, "orders")
    assert shown() == [("run: names", 0.0), ("orders: commit", 100.0)]
    for name in ("orders", "names"):
        at(Moment.RECORDED, name, step=StepRecord(name, 0, "table", "silver", "created", "new"))
    [(_, percentage)] = shown()
    assert round(percentage) == 67
