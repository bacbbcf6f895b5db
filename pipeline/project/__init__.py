"""A project loaded, and the stores that it works on."""

from pipeline.project.project import Project, load
from pipeline.project.workspace import Workspace

__all__ = ["Project", "Workspace", "load"]
