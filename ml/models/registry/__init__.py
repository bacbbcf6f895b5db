"""The registry: models in MLflow, their versions, and what these are used for."""

from ml.models.registry.registry import Champion, Origin, Registry
from ml.models.registry.roles import Roles
from ml.models.registry.versions import ModelVersion, ModelVersions

__all__ = ["Champion", "ModelVersion", "ModelVersions", "Origin", "Registry", "Roles"]
