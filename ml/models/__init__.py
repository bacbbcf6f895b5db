"""Models: trained on a training set, evaluated on rows that training has not seen, and registered if they pass their gate."""

from ml.models.definition import Model, model
from ml.models.evaluation import Evaluation
from ml.models.serving import Predictor, load_champion

__all__ = ["Evaluation", "Model", "Predictor", "load_champion", "model"]
