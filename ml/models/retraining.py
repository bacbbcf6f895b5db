"""When a model is trained again: after some time, after enough new rows, or when a monitor has an alarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ml.models.options import require_whole_number
from pipeline.core.definitions import BuildContext, caller, names
from pipeline.core.errors import DefinitionError
from pipeline.core.event_time import format_duration, parse_duration

ALARM = "alarm"
"""The state of a monitor's window whose rows have changed."""


@dataclass(frozen=True)
class Retraining:
    """The occasions for which a model is trained again; any of them suffices."""

    every: timedelta | None
    new_rows: int | None
    on: tuple[str, ...]
    cooldown: timedelta


@dataclass(frozen=True)
class LastTraining:
    """The newest training of a definition, whether its model was accepted or not."""

    at: datetime
    rows: int


def retrain(
    *,
    every: str | timedelta | None = None,
    new_rows: int | None = None,
    on: str | Sequence[str] = (),
    cooldown: str | timedelta = timedelta(),
) -> Retraining:
    """Define when a model is trained again on other rows; a changed definition always is.

    Any occasion suffices: so long after the last training (`every`), so many `new_rows` in the training set, or an open alarm of one of the
    monitors `on`. During `cooldown` after a training, none does.

    Raises `DefinitionError` without an occasion, and for invalid values.
    """
    place = caller()
    if every is None and new_rows is None and not names(on):
        do = "pass every=, new_rows= or on="
        raise DefinitionError("a model with retrain=retrain() is never trained again", do=do, place=place)
    if new_rows is not None:
        require_whole_number("new_rows", new_rows, 1, place)
    return Retraining(
        None if every is None else parse_duration(every, "every", place),
        new_rows,
        names(on),
        parse_duration(cooldown, "cooldown", place),
    )


def decision(
    retraining: Retraining, last: LastTraining, now: datetime, rows: int, alarms: Sequence[str]
) -> tuple[bool, str]:
    """Return whether a model is trained again, and why or why not. `rows` are those of the training set now."""
    age, more = now - last.at, rows - last.rows
    reasons = [f"alarm of {each}" for each in alarms]
    if retraining.new_rows is not None and more >= retraining.new_rows:
        reasons.append(f"{more:,} new rows")
    if retraining.every is not None and age >= retraining.every:
        reasons.append(f"the last training is {_rounded(age)} ago")
    if not reasons:
        waits = [] if retraining.new_rows is None else [f"{max(more, 0):,} of {retraining.new_rows:,} new rows"]
        waits += [] if retraining.every is None else [f"{_rounded(age)} of {format_duration(retraining.every)}"]
        waits += [f"no alarm of {', '.join(retraining.on)}"] if retraining.on else []
        return False, f"not trained again: {'; '.join(waits)}"
    if age < retraining.cooldown:
        ends = (last.at + retraining.cooldown).astimezone(UTC)
        return False, f"not trained again before {ends:%Y-%m-%d %H:%M} UTC, in spite of {' and '.join(reasons)}"
    return True, " and ".join(reasons)


def alarmed_monitors(context: BuildContext, monitors: Sequence[str]) -> list[str]:
    """Return the monitors with an alarm that is open in their newest window, with its last reason.

    That window may have too few rows to be judged, which ends no alarm.
    """
    alarmed = []
    for name in monitors:
        rows = context.table(name).select(["window_start", "state", "since", "reason"]).to_pylist()
        dated = sorted((row for row in rows if row["window_start"] is not None), key=lambda row: row["window_start"])
        opened = [row["since"] for row in dated if row["since"] and row["window_start"] == dated[-1]["window_start"]]
        reasons = [row["reason"] for row in dated if row["since"] in opened and row["state"] == ALARM]
        if opened:
            alarmed.append(f"{name}: {reasons[-1] if reasons else dated[-1]['reason']}")
    return alarmed


def _rounded(duration: timedelta) -> str:
    """Return a duration in its two largest units."""
    seconds = int(duration.total_seconds())
    step = 3600 if seconds >= 86400 else 60 if seconds >= 3600 else 1  # noqa: PLR2004 - a day, an hour
    return format_duration(timedelta(seconds=seconds // step * step))
