"""Stops an experiment that does harm, or whose results cannot be trusted."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.definitions import Artifact, BuildContext, Verdict
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.sql_text import quoted


@dataclass(frozen=True, kw_only=True)
class ExperimentStop(Artifact):
    """Looks at the results in each run while the experiment runs; it belongs to the experiment."""

    experiment: str

    @property
    def kind(self) -> str:
        """`experiment stop`."""
        return "experiment stop"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The results."""
        return (self.experiment,)

    @property
    def selected_with(self) -> str:
        """The experiment."""
        return self.experiment

    @property
    def decides(self) -> str:
        """Whether the experiment goes on."""
        return f"looks whether {self.experiment} does harm"

    @property
    def fingerprint(self) -> str:
        """It has no options."""
        return fingerprint("experiment stop", self.experiment)

    def verdict(self, context: BuildContext) -> Verdict | None:
        """Return a verdict if the experiment does not run."""
        from ml.experiments.states import ExperimentStates  # noqa: PLC0415 - reads the lake

        state = ExperimentStates(context.lake).state(self.experiment)
        if state is None:
            do = f"headwater experiment start {self.experiment}"
            return Verdict(accepted=True, reason=f"the experiment was not started: {do}")
        return None if state.status == "running" else Verdict(accepted=True, reason=f"stopped: {state.reason}")

    def build(self, context: BuildContext) -> Verdict:
        """Stop the experiment if a decision is `harm` or `broken`; then it is refused."""
        from ml.experiments.results import BROKEN, HARM  # noqa: PLC0415 - imports Arrow
        from ml.experiments.states import ExperimentStates  # noqa: PLC0415 - reads the lake

        table = quoted(self.experiment)
        rows = context.query(f"select metric, decision, reason from {table} order by metric nulls first").to_pylist()
        for row in rows:
            if row["decision"] in {BROKEN, HARM}:
                what = "the ratio of the variants" if row["metric"] is None else row["metric"]
                reason = f"{row['decision']}: {what}: {row['reason']}"
                ExperimentStates(context.lake).stop(self.experiment, reason)
                return Verdict(accepted=False, reason=f"the experiment is stopped, all units get the control: {reason}")
        return Verdict(accepted=True, reason="the experiment goes on: no harm")

    def registered(self, store: str, name: str) -> None:
        """It has no versions."""
