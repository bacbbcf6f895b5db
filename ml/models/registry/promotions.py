"""The changes of a model's champion, recorded with the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ml.models.registry.roles import CHAMPION

_HISTORY = "headwater.promotions"
_MOST_CHARACTERS, _MOST_REASON = 4900, 200
"""A tag of MLflow has at most 5,000 characters."""


@dataclass(frozen=True)
class ChampionChange:
    """A change of the champion."""

    at: str
    version: int
    replaced: int | None
    reason: str


def promotions_of(client: Any, name: str) -> list[ChampionChange]:
    """Return the changes of the champion of a model, the newest first."""
    (found,) = client.search_registered_models(f"name='{name}'") or (None,)
    return [] if found is None else _entries(found)


def record_promotion(client: Any, name: str, number: int, reason: str) -> None:
    """Record that a version becomes the champion, and which one it replaces."""
    (found,) = client.search_registered_models(f"name='{name}'")
    replaced = found.aliases.get(CHAMPION)
    if replaced is not None and int(replaced) == number:
        return
    at = datetime.now(UTC).isoformat(timespec="seconds")
    promotion = ChampionChange(at, number, None if replaced is None else int(replaced), reason)
    client.set_registered_model_tag(name, _HISTORY, trimmed([asdict(each) for each in (promotion, *_entries(found))]))


def trimmed(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return entries, the newest first, as the text of a tag; the oldest are left out if it would be too long."""
    kept = [{**each, "reason": str(each["reason"])[:_MOST_REASON]} for each in entries]
    while len(text := json.dumps(kept)) > _MOST_CHARACTERS:
        kept = kept[:-1]
    return text


def _entries(found: Any) -> list[ChampionChange]:
    text = found.tags.get(_HISTORY)
    return [ChampionChange(**each) for each in json.loads(text)] if text else []
