"""Features and models: what a project predicts, from which columns, and how good it has to be."""

from ml.features.view import features
from ml.models.definition import model

__all__ = ["features", "model"]
