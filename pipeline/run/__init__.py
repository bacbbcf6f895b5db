"""Where the stages meet: load a project, look into its workspace, run it."""

from pipeline.run.decide import Options
from pipeline.run.foresight import foresee
from pipeline.run.project import Project, load
from pipeline.run.runner import Runner
from pipeline.run.workspace import Workspace

__all__ = ["Options", "Project", "Runner", "Workspace", "foresee", "load"]
