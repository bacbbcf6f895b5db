"""Whether an experiment runs: started and stopped by people, and stopped by runs when it does harm.

The state is a small file in the lake, so that every server sees it without the catalog.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from pipeline.core.clock import Clock, now
from pipeline.core.format_versions import require_known
from pipeline.lake import Storage

Status = Literal["running", "stopped"]
FOLDER = "_headwater/experiments/"
FORMAT_VERSION = 1


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
        file = f"{FOLDER}{name}.json"
        text = self._storage.read_existing([file]).get(file)
        if text is None:
            return None
        parts = json.loads(text)
        require_known(
            parts.get("format_version"), FORMAT_VERSION, f"the state of experiment {name!r}", "upgrade Headwater"
        )
        return ExperimentState(**parts)

    def start(self, name: str, reason: str) -> ExperimentState:
        """Let units take part from now on."""
        return self._set(name, "running", reason)

    def stop(self, name: str, reason: str, variant: str = "") -> ExperimentState:
        """Let all units get one variant from now on, by default the control."""
        return self._set(name, "stopped", reason, variant)

    def _set(self, name: str, status: Status, reason: str, variant: str = "") -> ExperimentState:
        state = ExperimentState(status, self._clock().isoformat(timespec="seconds"), reason, variant)
        self._storage.write_text(f"{FOLDER}{name}.json", json.dumps(asdict(state), sort_keys=True))
        return state
