"""The points of a run between which it can be killed."""

from __future__ import annotations

from enum import StrEnum


class Moment(StrEnum):
    """The points of a run between which it can be killed; `working` occurs any number of times."""

    BEGUN = "begun"
    DECIDED = "decided"
    WORKING = "working"
    STAGED = "staged"
    COMMITTED = "committed"
    SETTLED = "settled"
    LOADED = "loaded"
    RECORDED = "recorded"
    MAINTAINED = "maintained"
    """A table was compacted or vacuumed, which is not due in every run."""
    ENDED = "ended"
