"""Features and models: what a project predicts, from which columns, and the quality that models must reach."""

from ml.features import feature_service, feature_view, features, training_set
from ml.models.definition import model

__all__ = ["feature_service", "feature_view", "features", "model", "training_set"]
