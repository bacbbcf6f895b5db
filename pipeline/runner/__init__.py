"""Runs over all tables of a project: decide, compute, commit, backfill."""

from pipeline.runner.decide import RunOptions
from pipeline.runner.dry_run import plan_run
from pipeline.runner.runner import Runner

__all__ = ["RunOptions", "Runner", "plan_run"]
