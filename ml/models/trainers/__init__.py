"""Trainers: what fits estimators."""

from ml.models.trainers.boosted_trees import BoostedTrees
from ml.models.trainers.function import FunctionTrainer
from ml.models.trainers.lightgbm import LightGBM
from ml.models.trainers.torch import Torch
from ml.models.trainers.trainer import FitRequest, Trainer
from ml.models.trainers.xgboost import XGBoost

__all__ = ["BoostedTrees", "FitRequest", "FunctionTrainer", "LightGBM", "Torch", "Trainer", "XGBoost"]
