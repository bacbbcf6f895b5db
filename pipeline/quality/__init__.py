"""Expectations and scores."""

from pipeline.quality.expectations import drop, fail, quarantine, warn
from pipeline.quality.score import score

__all__ = ["drop", "fail", "quarantine", "score", "warn"]
