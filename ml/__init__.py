"""Features and models: what a project predicts, from which columns, and the quality that models must reach."""

from ml.features.view import features
from ml.models.definition import model

__all__ = ["features", "model"]
