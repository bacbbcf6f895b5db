"""Features and models: what a project predicts, from which columns, and the quality that models must reach."""

from ml.experiments.definition import experiment, metric
from ml.features import feature_service, feature_view, features, on_demand, training_set
from ml.models.definition import model
from ml.monitoring import alarms, monitor, performance, rows_of, same_weekday, trailing, training

__all__ = [
    "alarms",
    "experiment",
    "feature_service",
    "feature_view",
    "features",
    "metric",
    "model",
    "monitor",
    "on_demand",
    "performance",
    "rows_of",
    "same_weekday",
    "trailing",
    "training",
    "training_set",
]
