"""The table `[env.….cluster]` of `headwater.toml`: what a run asks of a Ray cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any

from pipeline.core.errors import DefinitionError, Place, SettingsError, did_you_mean
from pipeline.core.event_time import parse_duration
from pipeline.core.setting_values import positive, typed


@dataclass(frozen=True)
class ClusterSettings:
    """What a run asks of a Ray cluster."""

    deadline: timedelta | None = None
    """The time within which a run should end; without it, a run asks for all cores that it can use."""
    min_cpus: int = 0
    """The minimum number of cores of a step that runs on the cluster, even if fewer are enough for the deadline."""
    max_cpus: int | None = None
    """The maximum number of cores of a step; by default, those that the cluster can have."""
    task_memory_bytes: int | None = None
    """The memory of a task with one core; by default, the share of a core in the memory of its node."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources of each task. Tasks run only on nodes that have them."""
    stream_worker_cpus: float = 0.25
    """The cores that each worker of a stream reserves. Four fit one core, because most of them wait."""
    cost_per_hour: Mapping[str, float] = field(default_factory=dict)
    """For each node type of the cluster, the cost of a node for an hour, in any currency."""


def cluster_settings(values: Mapping[str, object], place: Place) -> ClusterSettings:
    """Return the settings with these values; raise `SettingsError` for an unknown key and for an invalid value."""
    known = [each.name for each in fields(ClusterSettings)]
    for key in values:
        if key not in known:
            raise SettingsError(f"unknown key 'cluster.{key}'", do=did_you_mean(key, known), place=place)
    checked = ClusterSettings(**{key: _CHECKS[key](f"cluster.{key}", value, place) for key, value in values.items()})
    if checked.max_cpus is not None and checked.min_cpus > checked.max_cpus:
        raise SettingsError(
            "'cluster.min_cpus' is larger than 'cluster.max_cpus'",
            got=f"{checked.min_cpus} and {checked.max_cpus}",
            place=place,
        )
    return checked


def _deadline(key: str, value: object, place: Place) -> timedelta:
    text = typed(key, value, str, "a duration such as '4h'", place)
    try:
        deadline = parse_duration(text, key, place)
    except DefinitionError as error:
        raise SettingsError(f"{key!r} is not a duration", got=repr(text), do=error.do, place=place) from error
    if not deadline:
        raise SettingsError(f"{key!r} must be positive", got=repr(text), place=place)
    return deadline


def _cores(key: str, value: object, place: Place) -> int:
    return positive(key, value, "a number of cores", place)


def _share(key: str, value: object, place: Place) -> float:
    number = value if isinstance(value, float) else typed(key, value, int, "a number of cores", place)
    if not 0 < number < math.inf:
        raise SettingsError(f"{key!r} must be positive", got=repr(number), place=place)
    if number > 1 and number != int(number):  # as Ray requires
        raise SettingsError(f"{key!r} must be a whole number if it is more than 1", got=repr(number), place=place)
    return float(number)


def _bytes(key: str, value: object, place: Place) -> int:
    return positive(key, value, "a number of bytes", place)


def _numbers(key: str, value: object, place: Place) -> dict[str, float]:
    table = typed(key, value, dict, "a table of numbers", place)
    for name, number in table.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or number < 0:
            raise SettingsError(f"'{key}.{name}' must be a number of 0 or more", got=repr(number), place=place)
    return {name: float(number) for name, number in table.items()}


def _resources(key: str, value: object, place: Place) -> dict[str, float]:
    numbers = _numbers(key, value, place)
    for name, number in numbers.items():
        if name in _RAYS_OWN:
            do = _RAYS_OWN[name]
            raise SettingsError(f"'{key}.{name}' is not a custom resource", got=f"{number:g}", do=do, place=place)
    return numbers


_RAYS_OWN = {
    "CPU": "remove it: a task has one core, or more if it runs alone",
    "GPU": "remove it: tasks do not use GPUs",
    "memory": "set task_memory_bytes",
    "object_store_memory": "remove it: tasks pass files",
}
"""The resources of Ray that are not custom ones, and what to do instead."""
_CHECKS: Mapping[str, Callable[[str, object, Place], Any]] = {
    "deadline": _deadline,
    "min_cpus": _cores,
    "max_cpus": _cores,
    "task_memory_bytes": _bytes,
    "resources": _resources,
    "stream_worker_cpus": _share,
    "cost_per_hour": _numbers,
}
