"""Feature views: the columns that models learn from and are asked with."""

from ml.features.view import FeatureView, features

__all__ = ["FeatureView", "features"]
