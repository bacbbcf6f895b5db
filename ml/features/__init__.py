"""Feature views: the columns that models are trained on and predict from."""

from ml.features.view import FeatureView, features

__all__ = ["FeatureView", "features"]
