"""How many replicas a project has: a fixed number, or as many as its requests need.

The policy runs in Ray Serve's controller. It sees requests of the proxy by itself, and those of direct servers because replicas
report them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import RequestError

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

DIRECT_REQUESTS = "direct_requests"
"""The name by which a replica reports how many requests of its direct server are under way."""
_NUMBERS = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


@dataclass(frozen=True)
class Replicas:
    """The least and the most replicas, and how soon their number follows the requests, in seconds."""

    least: int = 1
    most: int = 1
    looks_back_s: float = 15.0
    """The period over which requests are averaged."""
    up_after_s: float = 5.0
    down_after_s: float = 120.0

    @classmethod
    def of(cls, text: str) -> Replicas:
        """Return those of a text such as `2` or `1-4`; raise `RequestError` for any other, and for fewer than one replica."""
        numbers = _NUMBERS.fullmatch(text)
        if numbers is None:
            raise RequestError("a number of replicas, or the least and the most", got=repr(text), do="write 2 or 1-4")
        least = int(numbers[1])
        most = int(numbers[2] or least)
        if least < 1:
            raise RequestError("there must be at least one replica", got=repr(text), do="pass 1 or more")
        if most < least:
            raise RequestError("there are fewer replicas at most than at least", got=repr(text), do="write 1-4")
        return cls(least, most)

    def options(self, requests_per_replica: int) -> Mapping[str, Any]:
        """Return the options of a deployment; with several numbers, each replica should have this many requests under way."""
        if self.least == self.most:
            return {"num_replicas": self.least}
        scaling = {
            "min_replicas": self.least,
            "max_replicas": self.most,
            "target_ongoing_requests": requests_per_replica,
            "look_back_period_s": self.looks_back_s,
            "upscale_delay_s": self.up_after_s,
            "downscale_delay_s": self.down_after_s,
            "policy": {"policy_function": f"{__name__}:{replicas_for_requests.__name__}"},
        }
        return {"autoscaling_config": scaling}


def replicas_for_requests(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Return how many replicas the requests need that are under way or wait, at the proxy and at direct servers."""
    direct = (context.aggregated_metrics or {}).get(DIRECT_REQUESTS, {})
    assert context.config is not None  # noqa: S101 - Serve passes that of the deployment
    return (context.total_num_requests + sum(direct.values())) / context.config.target_ongoing_requests, {}
