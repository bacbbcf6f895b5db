"""Experiments: variants assigned by hash, and results that may be looked at any number of times."""

from ml.experiments.assignment import Assignment
from ml.experiments.bandit import thompson_weights
from ml.experiments.definition import Experiment, OutcomeMetric, experiment, outcome_metric
from ml.experiments.interleaving import interleave
from ml.experiments.live import Assigned, LiveExperiment, live_experiment
from ml.experiments.moments import Difference, Moments, cuped, difference, ratio_difference
from ml.experiments.planning import minimum_detectable_effect, power, share_deviation, units_needed
from ml.experiments.preference import Interleaving, interleaving
from ml.experiments.sequential import (
    Interval,
    always_valid,
    always_valid_share,
    concentration_for,
    fixed_horizon,
    mixture_for,
    sequential_sample_ratio,
)

__all__ = [
    "Assigned",
    "Assignment",
    "Difference",
    "Experiment",
    "Interleaving",
    "Interval",
    "LiveExperiment",
    "Moments",
    "OutcomeMetric",
    "always_valid",
    "always_valid_share",
    "concentration_for",
    "cuped",
    "difference",
    "experiment",
    "fixed_horizon",
    "interleave",
    "interleaving",
    "live_experiment",
    "minimum_detectable_effect",
    "mixture_for",
    "outcome_metric",
    "power",
    "ratio_difference",
    "sequential_sample_ratio",
    "share_deviation",
    "thompson_weights",
    "units_needed",
]
