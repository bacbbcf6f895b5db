"""Features and models: what a project predicts, from which columns, and the quality that models must reach."""

from ml.experiments.definition import experiment, outcome_metric
from ml.experiments.preference import interleaving
from ml.features import feature_service, feature_view, features, on_demand, training_set
from ml.models.definition import model
from ml.models.prediction_log import prediction_log
from ml.models.predictions import predictions
from ml.models.retraining import retrain
from ml.models.rollout import rollout
from ml.models.trainers import LightGBM, Torch, XGBoost
from ml.models.tuning.definition import choice, integers, loguniform, tune, uniform
from ml.monitoring import alarms, monitor, performance, rows_of, same_weekday, trailing, training

__all__ = [
    "LightGBM",
    "Torch",
    "XGBoost",
    "alarms",
    "choice",
    "experiment",
    "feature_service",
    "feature_view",
    "features",
    "integers",
    "interleaving",
    "loguniform",
    "model",
    "monitor",
    "on_demand",
    "outcome_metric",
    "performance",
    "prediction_log",
    "predictions",
    "retrain",
    "rollout",
    "rows_of",
    "same_weekday",
    "trailing",
    "training",
    "training_set",
    "tune",
    "uniform",
]
