"""Interleaving: one list from two rankings, in which clicks tell which of them is better."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from ml.experiments.assignment import share_of
from pipeline.core.errors import RequestError

T = TypeVar("T", bound=Hashable)


def interleave(
    rankings: Mapping[str, Sequence[T]], request: object, *, experiment: str = "", length: int | None = None
) -> list[tuple[T, str | None]]:
    """Return at most `length` items of two rankings, each with the ranking that a click on it is credited to.

    Team draft (Radlinski, Kurup and Joachims, 2008): in each turn, both rankings add their best item that is not in the list yet, in
    an order that a coin decides. The coins are a function of `experiment` and `request`. When a ranking has no further items, those
    of the other follow with `None`, so that the credited items of both differ by one at most. Items of a ranking that are repeated
    are in the list once.

    Raises `RequestError` unless there are two rankings and `length` is not negative.
    """
    if len(rankings) != 2:  # noqa: PLR2004 - a click must mean one against the other
        raise RequestError("two rankings are interleaved", got=f"{len(rankings)}: {', '.join(rankings)}")
    if length is not None and length < 0:
        raise RequestError("length= must not be negative", got=f"{length}")
    names, queues = tuple(rankings), {name: iter(items) for name, items in rankings.items()}
    shown: dict[T, str | None] = {}
    ended, turn = False, 0
    while not ended:
        first = share_of(experiment, f"turn {turn}", request) < 0.5  # noqa: PLR2004 - a fair coin
        for name in names if first else names[::-1]:
            item = next((item for item in queues[name] if item not in shown), None)
            if item is None:
                ended = True
                break
            shown[item] = name
        turn += 1
    for name in names:
        for item in rankings[name]:
            shown.setdefault(item, None)
    return list(shown.items())[:length]
