"""Tasks: the kinds of labels that models predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ml.models.tasks.classes import Anomaly, Binary, Multiclass
from ml.models.tasks.numbers import Forecasting, Ranking, Regression
from ml.models.tasks.task import HALF, TASKS, Class, Task, TaskName

_KINDS: Mapping[str, type[Task]] = MappingProxyType(
    {each.name: each for each in (Binary, Multiclass, Regression, Forecasting, Ranking, Anomaly)}
)


def task_of(name: str, classes: Sequence[Class] = ()) -> Task:
    """Return the task of a name, with the classes that its model has learned."""
    return _KINDS[name](tuple(classes))


__all__ = ["HALF", "TASKS", "Class", "Multiclass", "Task", "TaskName", "task_of"]
