"""Experiments: variants assigned by hash, and results that may be looked at any number of times."""

from ml.experiments.assignment import Assignment
from ml.experiments.definition import Experiment, OutcomeMetric, experiment, metric
from ml.experiments.live import Assigned, LiveExperiment, live_experiment
from ml.experiments.moments import Difference, Moments, cuped, difference, ratio_difference
from ml.experiments.planning import minimum_detectable_effect, power, share_deviation, units_needed
from ml.experiments.sequential import (
    Interval,
    always_valid,
    fixed_horizon,
    mixture_for,
    sequential_sample_ratio,
)

__all__ = [
    "Assigned",
    "Assignment",
    "Difference",
    "Experiment",
    "Interval",
    "LiveExperiment",
    "Moments",
    "OutcomeMetric",
    "always_valid",
    "cuped",
    "difference",
    "experiment",
    "fixed_horizon",
    "live_experiment",
    "metric",
    "minimum_detectable_effect",
    "mixture_for",
    "power",
    "ratio_difference",
    "sequential_sample_ratio",
    "share_deviation",
    "units_needed",
]
