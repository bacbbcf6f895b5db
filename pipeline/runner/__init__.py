"""The run over all tables of a project: decide, compute, commit, backfill, replay."""

from pipeline.runner.decide import Options
from pipeline.runner.dry_run import foresee
from pipeline.runner.runner import Runner

__all__ = ["Options", "Runner", "foresee"]
