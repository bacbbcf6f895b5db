"""The model card: what a model is for, what it learned from, how good it is and where it is not. Markdown and HTML."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ml.models.rows import TrainTestSplit

if TYPE_CHECKING:
    import jinja2

    from ml.models.definition import Model
    from ml.models.registry.registry import Origin
    from ml.models.training import Evaluated
    from ml.models.tuning.search import Trial

_LIBRARIES = ("scikit-learn", "lightgbm", "xgboost-cpu", "torch", "pandas", "numpy", "ray")
_SAMPLED = {
    "training": "All rows are fitted; leaks and the baseline are determined from",
    "holdout": "Metrics, segments and importance are those of",
}
_MOST_SEGMENTS, _MOST_TRIALS = 20, 10


@dataclass(frozen=True)
class Card:
    """What a card shows."""

    model: Model
    params: Mapping[str, object]
    parts: TrainTestSplit
    found: Evaluated
    accepted: bool
    reason: str
    origin: Origin
    run_id: str
    trials: Sequence[Trial]

    @property
    def values(self) -> dict[str, Any]:
        """The values of the templates."""
        evaluation, parts = self.model.evaluation, self.parts
        higher = evaluation.higher_is_better
        finished = [trial for trial in self.trials if trial.metric is not None]
        best = sorted(finished, key=lambda trial: trial.metric or 0.0, reverse=higher)
        return {
            "model": self.model,
            "evaluation": evaluation,
            "trainer": self.model.trainer.words,
            "accepted": self.accepted,
            "reason": self.reason,
            "run_id": self.run_id,
            "versions": self.origin.inputs,
            "fingerprint": self.origin.fingerprint,
            "parts": [
                ("Training", parts.train.part, f"all rows but those {evaluation.holdout.words}"),
                ("Holdout", parts.holdout.part, f"rows {evaluation.holdout.words}"),
            ],
            "sampled": _SAMPLED,
            "samples": [
                (word, len(rows))
                for word, rows in (("training", parts.train), ("holdout", parts.holdout))
                if rows.sample_of is not None
            ],
            "excluded": parts.unlabelled + parts.undated,
            "kinds": parts.kinds,
            "metrics": [
                (name, value, self.found.baseline.get(name), name == evaluation.metric)
                for name, value in self.found.metrics.items()
            ],
            "segments": self.found.segments[:_MOST_SEGMENTS],
            "more_segments": max(0, len(self.found.segments) - _MOST_SEGMENTS),
            "importance": self.found.importance,
            "widest": max((abs(value) for value in self.found.importance.values()), default=0.0) or 1.0,
            "faults": self.found.faults,
            "params": {name: _shown(value) for name, value in self.params.items()},
            "trials": [
                (trial.metric, {name: _shown(value) for name, value in trial.values.items()})
                for trial in best[:_MOST_TRIALS]
            ],
            "count": len(self.trials),
            "libraries": _libraries(),
            "python": platform.python_version(),
        }


def markdown_card(card: Card) -> str:
    """Return the card as Markdown."""
    return _templates().get_template("card.md").render(card.values)


def html_card(card: Card) -> str:
    """Return the card as a page of HTML, without scripts."""
    return _templates().get_template("card.html").render(card.values)


def _shown(value: object) -> object:
    if isinstance(value, list):  # one for each stage of the rounds
        return ", ".join(str(_shown(each)) for each in value)
    return f"{value:.4g}" if isinstance(value, float) else value


def _libraries() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def _templates() -> jinja2.Environment:
    import jinja2  # noqa: PLC0415 - only when a model has been trained

    loader = jinja2.PackageLoader("ml.models")
    return jinja2.Environment(
        loader=loader, autoescape=jinja2.select_autoescape(["html"]), trim_blocks=True, lstrip_blocks=True
    )
