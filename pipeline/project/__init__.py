"""Loading a project, and access to its stores."""

from pipeline.project.project import Project, load
from pipeline.project.workspace import Workspace

__all__ = ["Project", "Workspace", "load"]
