"""Whether tasks of a step were run more than once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Repeats:
    """Whether a task was run more than once, so that files of calls that were not used may remain."""

    any: bool = False
