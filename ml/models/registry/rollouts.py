"""The rollout of a model that is under way, and what was decided about earlier ones; kept with the model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from ml.models.registry.model_store import ModelStore
from ml.models.registry.promotions import trimmed
from ml.models.registry.registry import ROLLOUT
from ml.models.registry.roles import CHALLENGER, CHAMPION, SHADOW, Role
from ml.models.registry.versions import ModelVersions
from pipeline.core.clock import Clock, now
from pipeline.core.errors import StorageError

_HISTORY = "headwater.rollouts"


@dataclass(frozen=True)
class RolloutProgress:
    """A rollout that is under way."""

    version: int
    champion: int
    """The version that it is compared with."""
    share: float
    """The share of the units that the version predicts; 0 while it is a shadow."""
    since: datetime
    """When this step began."""

    @property
    def role(self) -> Role:
        """The role of the version in this step."""
        return CHALLENGER if self.share else SHADOW

    @classmethod
    def of(cls, text: str) -> RolloutProgress:
        """Return what `text` says; raise `StorageError` if it is no rollout."""
        try:
            parts = json.loads(text)
            return cls(parts["version"], parts["champion"], parts["share"], datetime.fromisoformat(parts["since"]))
        except (ValueError, KeyError, TypeError) as error:
            problem = f"the tag {ROLLOUT!r} of a model cannot be read"
            raise StorageError(problem, got=text[:100], do="delete the tag, which ends the rollout") from error

    @property
    def text(self) -> str:
        """What `of` reads."""
        parts = {"version": self.version, "champion": self.champion, "share": self.share}
        return json.dumps({**parts, "since": self.since.isoformat()})


@dataclass(frozen=True)
class RolloutDecision:
    """What was decided about a version in a rollout."""

    at: str
    version: int
    decision: str
    reason: str


class Rollouts:
    """The rollouts of the models in a store. Each change is recorded with the model."""

    def __init__(self, store: str, clock: Clock = now) -> None:
        """Create it without opening the store."""
        self._store, self._versions, self._clock = ModelStore(store), ModelVersions(store), clock

    def decisions(self, name: str) -> list[RolloutDecision]:
        """Return what was decided about the rollouts of a model, the newest first."""
        return [RolloutDecision(**each) for each in json.loads(self._tag(name, _HISTORY) or "[]")]

    def progress(self, name: str) -> RolloutProgress | None:
        """Return the rollout that is under way."""
        text = self._tag(name, ROLLOUT)
        return RolloutProgress.of(text) if text else None

    def take_step(self, name: str, version: int, champion: int, share: float, reason: str) -> None:
        """Let a version predict a share of the units, or be a shadow if that is 0.

        If it fails in between, the roles are not those of the step that is under way, which the next run finds.
        """
        progress = RolloutProgress(version, champion, share, self._clock())
        self._note(name, version, f"predicts {share:.0%}" if share else "is a shadow", reason, progress.text)
        if share:
            self._versions.release(name, version, SHADOW)
        self._versions.promote(name, version, progress.role, reason, share)

    def promote(self, name: str, progress: RolloutProgress, reason: str) -> None:
        """Make the version the champion, which ends the rollout."""
        self._versions.promote(name, progress.version, CHAMPION, f"rollout: {reason}")
        self._note(name, progress.version, "is the champion", reason, "")

    def roll_back(self, name: str, progress: RolloutProgress, reason: str) -> None:
        """Withdraw the version, which ends the rollout; the champion predicts all units again."""
        self._versions.withdraw(name, progress.version, f"rollout: {reason}")
        self._note(name, progress.version, "is withdrawn", reason, "")

    def end(self, name: str, progress: RolloutProgress, reason: str) -> None:
        """End a rollout because of what somebody has changed; the version has no role afterwards, unless it is the champion.

        It does not wait any more. If a newer version is the champion now, it is forgotten, as other versions that were replaced.
        """
        for role in (CHALLENGER, SHADOW):
            self._versions.release(name, progress.version, role)
        champion = next((each.number for each in self._versions.of(name) if CHAMPION in each.roles), 0)
        self._versions.stop_waiting(
            name, progress.version, "" if champion > progress.version else f"not rolled out: {reason}"
        )
        self._note(name, progress.version, "is not rolled out any more", reason, "")

    def _tag(self, name: str, tag: str) -> str:
        """Return a tag of a model; empty if there is none."""
        with self._store.translating():
            (found,) = self._store.client().search_registered_models(f"name='{name}'") or (None,)
            return "" if found is None else str(found.tags.get(tag, ""))

    def _note(self, name: str, version: int, decision: str, reason: str, progress: str) -> None:
        """Record a decision and what is under way."""
        entry = RolloutDecision(self._clock().astimezone(UTC).isoformat(timespec="seconds"), version, decision, reason)
        history = trimmed([asdict(each) for each in (entry, *self.decisions(name))])
        with self._store.translating():
            client = self._store.client()
            client.set_registered_model_tag(name, _HISTORY, history)
            client.set_registered_model_tag(name, ROLLOUT, progress)


def end_rollout(store: str, name: str, reason: str) -> None:
    """End the rollout of a model, if one is under way."""
    rollouts = Rollouts(store)
    progress = rollouts.progress(name)
    if progress is not None:
        rollouts.end(name, progress, reason)
