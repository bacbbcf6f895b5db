"""What the results of a monitor are computed from, besides the counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ml.monitoring.alarm_rules import Alarms
from ml.monitoring.counts import Binning
from ml.monitoring.references import Reference


@dataclass(frozen=True)
class Monitored:
    """The options of a monitor that decide its results."""

    binning: Binning
    window: timedelta
    reference: Reference
    alarms: Alarms
    by: tuple[str, ...]
    has_segments: bool
    prediction: str
