"""Whether an experiment runs: started and stopped by people, and stopped by runs when it does harm.

The state is a small file in the lake, so that every server sees it without the catalog. The weights of a bandit are a file of their
own: a run that sets them cannot start again what somebody stops at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from pipeline.core.clock import Clock, now
from pipeline.core.format_versions import require_known
from pipeline.lake import Storage

Status = Literal["running", "stopped"]
FOLDER = "_headwater/experiments/"
FORMAT_VERSION = 1
WEIGHTS_FORMAT_VERSION = 1


@dataclass(frozen=True)
class ExperimentState:
    """Whether an experiment runs, since when and why."""

    status: Status
    at: str
    """ISO 8601, in UTC."""
    reason: str
    variant: str = ""
    """What all units get once it is stopped; empty for the control."""
    format_version: int = FORMAT_VERSION


class ExperimentStates:
    """The states of the experiments of a lake."""

    def __init__(self, storage: Storage, clock: Clock = now) -> None:
        """Create it without reading anything; `storage` is the lake's."""
        self._storage, self._clock = storage, clock

    def state(self, name: str) -> ExperimentState | None:
        """Return the state of an experiment; `None` if it was never started."""
        return self.state_and_weights(name)[0]

    def state_and_weights(self, name: str) -> tuple[ExperimentState | None, dict[str, float] | None]:
        """Return the state of an experiment and the weights of its variants; `None` for what was never written."""
        files = _state_file(name), _weights_file(name)
        texts = self._storage.read_existing(list(files))
        state, weights = (None if file not in texts else json.loads(texts[file]) for file in files)
        for parts, newest, what in (
            (state, FORMAT_VERSION, "state"),
            (weights, WEIGHTS_FORMAT_VERSION, "file of weights"),
        ):
            if parts is not None:
                require_known(
                    parts.get("format_version"), newest, f"the {what} of experiment {name!r}", "upgrade Headwater"
                )
        return None if state is None else ExperimentState(**state), None if weights is None else weights["weights"]

    def set_weights(self, name: str, weights: Mapping[str, float]) -> None:
        """Divide units by these weights from now on, while the experiment runs."""
        parts = {"weights": dict(weights), "format_version": WEIGHTS_FORMAT_VERSION}
        at = self._clock().isoformat(timespec="seconds")
        self._storage.write_text(_weights_file(name), json.dumps({**parts, "at": at}, sort_keys=True))

    def start(self, name: str, reason: str) -> ExperimentState:
        """Let units take part from now on."""
        return self._set(name, "running", reason)

    def stop(self, name: str, reason: str, variant: str = "") -> ExperimentState:
        """Let all units get one variant from now on, by default the control."""
        return self._set(name, "stopped", reason, variant)

    def _set(self, name: str, status: Status, reason: str, variant: str = "") -> ExperimentState:
        state = ExperimentState(status, self._clock().isoformat(timespec="seconds"), reason, variant)
        self._storage.write_text(_state_file(name), json.dumps(asdict(state), sort_keys=True))
        return state


def _state_file(name: str) -> str:
    return f"{FOLDER}{name}.json"


def _weights_file(name: str) -> str:
    return f"{FOLDER}{name}.weights.json"
