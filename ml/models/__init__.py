"""Models: trained on a feature view, judged on later rows than they saw, kept when they are good enough."""

from ml.models.definition import Model, model
from ml.models.evaluation import Evaluation
from ml.models.serving import Predictor, load_champion

__all__ = ["Evaluation", "Model", "Predictor", "load_champion", "model"]
