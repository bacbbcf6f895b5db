"""What runs ask of a cluster, kept in the cluster for `headwater cluster status`, and as metrics of Ray."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from pipeline.batch.demand import Demand

_NAMESPACE = b"headwater"
_PREFIX = b"demand:"
_EVERY_S = 2.0
_STALE_S = 30.0
"""A demand that is not renewed for this long is of a driver that died."""


@dataclass(frozen=True)
class StatedDemand:
    """What the tasks of a step ask for, and why."""

    name: str
    """The name of the tasks: project and table."""
    slots: int
    cpus: int
    """The cores of a slot."""
    reason: str
    at: float
    """When it was stated, in seconds since 1970."""
    driver: str
    """The machine and the process of the run."""


@contextmanager
def published(name: str, demand: Demand) -> Iterator[Callable[[], None]]:
    """Yield a function that states a demand, at most every two seconds; it is withdrawn at the end.

    Ray exports it as the gauges `ray_headwater_step_slots` and `ray_headwater_step_bytes_left`, with the tag `step`.
    """
    import ray  # noqa: PLC0415 - importing Ray takes seconds
    from ray.experimental import internal_kv  # noqa: PLC0415 - likewise

    key = _PREFIX + secrets.token_hex(8).encode()
    driver = f"{socket.gethostname()}:{os.getpid()}"
    stated_at = 0.0

    def measure(*values: int) -> None:
        for gauge, value in zip(_gauges(), values, strict=True):
            gauge.set(value, {"step": name})

    def publish() -> None:
        nonlocal stated_at
        now = time.time()
        if now - stated_at < _EVERY_S:
            return
        stated_at = now
        stated = StatedDemand(name, demand.slots(now), demand.cpus, demand.reason(now), now, driver)
        value = json.dumps(asdict(stated)).encode()
        measure(stated.slots, demand.left_bytes)
        with suppress(ray.exceptions.RayError, RuntimeError):  # the head is restarting
            internal_kv._internal_kv_put(key, value, namespace=_NAMESPACE)  # noqa: SLF001 - Ray has no public store

    try:
        yield publish
    finally:
        if stated_at:
            measure(0, 0)
            with suppress(ray.exceptions.RayError, RuntimeError):  # the cluster is gone
                internal_kv._internal_kv_del(key, namespace=_NAMESPACE)  # noqa: SLF001 - likewise


@lru_cache(maxsize=1)
def _gauges() -> tuple[Any, Any]:
    from ray.util.metrics import Gauge  # noqa: PLC0415 - importing Ray takes seconds

    slots = Gauge("headwater_step_slots", "The slots that a step asks for", ("step",))
    return slots, Gauge("headwater_step_bytes_left", "The input that a step has not read yet, in bytes", ("step",))


def stated_demands(gcs: Any) -> list[StatedDemand]:
    """Return what the running steps ask of the cluster of a GCS client."""
    keys = gcs.internal_kv_keys(_PREFIX, _NAMESPACE)
    values = [gcs.internal_kv_get(key, _NAMESPACE) for key in keys]
    stated = [StatedDemand(**json.loads(value)) for value in values if value]
    return sorted((s for s in stated if time.time() - s.at < _STALE_S), key=lambda each: each.name)
