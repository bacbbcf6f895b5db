"""Which variant a unit gets: a pure function of its id, so that every process gives the same answer and none is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from ml.experiments.options import require_number
from pipeline.core.errors import DefinitionError, RequestError


@dataclass(frozen=True)
class Assignment:
    """How units are divided among the variants of an experiment.

    Three independent hashes of a unit decide: whether it is in the namespace's holdout, whether it takes part, and its variant.
    So a unit that takes part keeps its variant when `traffic` grows, and the units of two experiments are not correlated. If the
    weight of the first variant grows, its units stay, and units of the next ones move to it; any other change of weights moves
    units, and needs a new `salt`.
    """

    experiment: str
    variants: Mapping[str, float]
    """The variants with their weights, the control first or where it belongs; weights are relative."""
    traffic: float = 1.0
    """The share of units that take part."""
    namespace: str = ""
    """Experiments of one namespace exclude each other by their `slots`, and share its holdout; empty for none."""
    slots: tuple[float, float] = (0.0, 1.0)
    """The part of the namespace's units that may take part, as an interval in [0, 1)."""
    holdout: float = 0.0
    """The share of the namespace's units that are in no experiment."""
    salt: str = ""
    """Changes the variants of all units."""
    cuts: tuple[tuple[str, float], ...] = field(init=False)
    """Each variant with the end of its interval in [0, 1)."""

    def __post_init__(self) -> None:
        """Check the shares; raise `DefinitionError` if they are none."""
        who = f"experiment {self.experiment!r}" if self.experiment else "an experiment"
        _require_variants(self.variants, who)
        weights = list(self.variants.values())
        if len(weights) < 2 or any(not w > 0 or math.isinf(w) for w in weights):  # noqa: PLR2004 - something to compare with
            raise DefinitionError(
                f"{who} needs two variants with positive weights",
                got=repr(dict(self.variants)),
            )
        if not isinstance(self.slots, Sequence) or len(self.slots) != 2:  # noqa: PLR2004 - an interval
            raise DefinitionError(
                f"slots= of {who} must be two shares", got=repr(self.slots), do="pass slots=(0.0, 0.5)"
            )
        start, end = self.slots
        shares = {"traffic": self.traffic, "holdout": self.holdout}
        for name, value in (*shares.items(), ("slots", start), ("slots", end)):
            require_number(value, f"{name}= of {who}")
        wrong = next((f"{name}={value:g}" for name, value in shares.items() if not 0 <= value <= 1), None)
        if wrong is None and not 0 <= start < end <= 1:
            wrong = f"slots={self.slots}"
        if wrong is not None:
            raise DefinitionError(f"{who} has a share that is not in [0, 1]", got=wrong)
        total, reached, cuts = sum(weights), 0.0, []
        for name, weight in self.variants.items():
            reached += weight
            cuts.append((name, reached / total))
        object.__setattr__(self, "cuts", tuple(cuts))

    def variant(self, unit: object) -> str | None:
        """Return the variant of a unit; `None` if it does not take part. Units with the same text are the same."""
        if self.holdout and share_of(self.namespace, "holdout", unit) < self.holdout:
            return None
        start, end = self.slots
        if end - start < 1 and not start <= share_of(self.namespace, "slot", unit) < end:
            return None
        if self.traffic < 1 and share_of(self._key, "traffic", unit) >= self.traffic:
            return None
        place = share_of(self._key, "variant", unit)
        return next(name for name, end in self.cuts if place < end or name == self.cuts[-1][0])

    @property
    def _key(self) -> str:
        return f"{self.experiment}:{self.salt}"


def _require_variants(variants: object, who: str) -> None:
    """Raise `DefinitionError` unless variants are names with numbers."""
    do = 'pass names with weights, the control first: variants={"control": 1, "new": 1}'
    if not isinstance(variants, Mapping):
        raise DefinitionError(f"the variants of {who} are no names with weights", got=repr(variants), do=do)
    for name, weight in variants.items():
        if not isinstance(name, str) or not name.strip():
            raise DefinitionError(f"{who} has a variant whose name is no text", got=repr(name), do=do)
        require_number(weight, f"the weight of variant {name!r} of {who}")


def share_of(key: str, purpose: str, unit: object) -> float:
    """Return a number in [0, 1) that is uniform over units, and independent for other keys and purposes.

    Raises `RequestError` for a unit that is no valid text.
    """
    try:
        text = f"{key}\0{purpose}\0{unit}".encode()
    except UnicodeEncodeError as error:
        raise RequestError("a unit is not valid text", got=ascii(unit)[:80]) from error
    digest = blake2b(text, digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)  # the 53 bits of a float, so that 1 is not reached
