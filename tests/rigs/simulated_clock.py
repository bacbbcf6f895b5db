"""A clock that tests set."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class SimulatedClock:
    """Sleeping moves it forward."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.now += seconds
