"""Features: what was known about entities, and the examples that models are trained on."""

from ml.features.on_demand import OnDemand, on_demand
from ml.features.service import Features, FeatureService, feature_service, features
from ml.features.training_set import TrainingSet, training_set
from ml.features.view import FeatureView, feature_view

__all__ = [
    "FeatureService",
    "FeatureView",
    "Features",
    "OnDemand",
    "TrainingSet",
    "feature_service",
    "feature_view",
    "features",
    "on_demand",
    "training_set",
]
