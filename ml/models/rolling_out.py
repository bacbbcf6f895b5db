"""Decisions about a rollout: begin, wait, take the next step, promote, or roll back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from ml.experiments.definition import sums_of
from ml.experiments.moments import INCOMPLETE
from ml.experiments.results import BROKEN, HARM, WORSE, results
from ml.models.registry.registry import AWAITS_ROLLOUT, Registry
from ml.models.registry.roles import CHALLENGER, CHAMPION, SHADOW, Roles
from ml.models.registry.rollouts import RolloutProgress, Rollouts
from ml.models.registry.versions import ModelVersion, ModelVersions
from pipeline.core.clock import Clock, now
from pipeline.core.definitions import BuildContext, Verdict
from pipeline.core.errors import ModelError, RequestError, quantity
from pipeline.core.event_time import format_duration
from pipeline.kernel.sql_text import literal, quoted

if TYPE_CHECKING:
    from ml.models.rollout import Rollout, RolloutSteps

Decision = Literal["wait", "go on", "roll back"]
_SETTLES = timedelta(seconds=5)
"""Servers need some seconds until all divide units by a new share; units that came before do not count."""


def verdict(steps: RolloutSteps, context: BuildContext) -> Verdict | None:
    """Return a verdict if there is nothing to decide. See `RolloutSteps.verdict`."""
    registry = Registry(context.store)
    if registry.is_rolling_out(steps.model):
        return None
    return Verdict(
        accepted=True, reason=f"no version of {steps.model} waits", version=registry.champion_version(steps.model)
    )


def build(steps: RolloutSteps, context: BuildContext, clock: Clock = now) -> Verdict:
    """Decide about a rollout. See `RolloutSteps.build`."""
    name, rollouts, registry = steps.model, Rollouts(context.store, clock), Registry(context.store)
    frozen, roles = registry.frozen(name), registry.roles(name)
    champion, progress = roles.versions.get(CHAMPION, ""), rollouts.progress(name)
    known = {each.number: each for each in ModelVersions(context.store).of(name)}
    if progress is not None and (changed := _changed(progress, champion, known)):
        rollouts.end(name, progress, changed)
        reason = f"the rollout of version {progress.version} has ended: {changed}"
        return Verdict(accepted=True, reason=reason, version=champion)
    paused = f"paused, because {name} is frozen: {frozen}"
    if frozen and (progress is None or progress.role == SHADOW):
        return Verdict(accepted=True, reason=paused, version=champion)
    if progress is None:
        return _begun(steps, rollouts, champion, known)
    if not frozen and not _has_its_role(progress, roles):
        reason = "begins again, because somebody changed its role, or a run was killed"
        rollouts.take_step(name, progress.version, progress.champion, progress.share, reason)
        return _verdict(progress.version, progress.share, champion, reason)
    decision, reason = _decided(steps, progress, context, clock())
    if frozen and decision != "roll back":
        decision, reason = "wait", paused
    return _next(steps, rollouts, progress, decision, reason)


def _begun(steps: RolloutSteps, rollouts: Rollouts, champion: str, known: Mapping[int, ModelVersion]) -> Verdict:
    """Begin the rollout of the newest version that waits, if there is one."""
    waiting = [number for number, each in known.items() if each.state == AWAITS_ROLLOUT]
    if not champion or max(waiting, default=0) <= int(champion):
        return Verdict(accepted=True, reason=f"no version of {steps.model} waits", version=champion)
    share = steps.rollout.steps[0] if steps.rollout.shadow is None else 0.0
    taken = next((each for each in known.values() if (CHALLENGER if share else SHADOW) in each.roles), None)
    if taken is not None and taken.number != max(waiting):
        reason = f"version {max(waiting)} waits, because version {taken.number} is the {taken.roles[0]}"
        return Verdict(accepted=True, reason=reason, version=champion)
    rollouts.take_step(steps.model, max(waiting), int(champion), share, "begins")
    return _verdict(max(waiting), share, champion, "begins")


def _has_its_role(progress: RolloutProgress, roles: Roles) -> bool:
    is_share = progress.role == SHADOW or roles.traffic == progress.share
    return is_share and roles.versions.get(progress.role) == str(progress.version)


def _decided(
    steps: RolloutSteps, progress: RolloutProgress, context: BuildContext, at: datetime
) -> tuple[Decision, str]:
    decide = shadow_decision if progress.role == SHADOW else step_decision
    try:
        return decide(steps.rollout, progress, context, at)
    except RequestError as error:
        problem = f"the metrics of the rollout of {steps.model!r} cannot be computed"
        do = "check value= and the columns of the metrics"
        raise ModelError(problem, got=error.got, do=do, place=steps.place) from error


def _next(
    steps: RolloutSteps, rollouts: Rollouts, progress: RolloutProgress, decision: Decision, reason: str
) -> Verdict:
    """Wait, take the next step, or end the rollout."""
    name, champion = steps.model, str(progress.champion)
    if decision == "roll back":
        rollouts.roll_back(name, progress, reason)
        return Verdict(accepted=False, reason=f"version {progress.version} is withdrawn: {reason}", version=champion)
    share = progress.share if decision == "wait" else steps.rollout.after(progress.share)
    if share is None:
        rollouts.promote(name, progress, reason)
        number = str(progress.version)
        return Verdict(accepted=True, reason=f"version {number} is the champion: {reason}", version=number)
    if decision == "go on":
        rollouts.take_step(name, progress.version, progress.champion, share, reason)
    return _verdict(progress.version, share, champion, reason)


def _verdict(version: int, share: float, champion: str, reason: str) -> Verdict:
    words = f"predicts {100 * share:.4g} % of the units" if share else "is a shadow"
    return Verdict(
        accepted=True, reason=f"version {version} {words}: {reason}", metrics={"share": share}, version=champion
    )


def _changed(progress: RolloutProgress, champion: str, known: Mapping[int, ModelVersion]) -> str:
    """Return what somebody has changed that ends a rollout; empty if nothing has."""
    version = known.get(progress.version)
    if champion != str(progress.champion):
        return f"version {champion or 'none'} is the champion"
    if version is None:
        return "the version is not registered any more"
    if version.state != AWAITS_ROLLOUT:
        return version.state or "the version has no state"
    other = next((each for each in known.values() if CHALLENGER in each.roles and each.number != version.number), None)
    return "" if other is None else f"version {other.number} is the challenger"


def shadow_decision(
    options: Rollout, progress: RolloutProgress, context: BuildContext, at: datetime
) -> tuple[Decision, str]:
    """Decide whether a shadow has seen enough; how often it differs from the champion is the reason."""
    log = quoted(options.log)
    [seen] = context.query(f"""
        select count(s.row) as rows, count(s.row) filter (where s.predicted is distinct from c.predicted) as differing, count(*) as every
        from {log} as c left join {log} as s on s.request_id = c.request_id and s.row = c.row
            and s.arm = {literal(SHADOW)} and s.model_version = {progress.version}
        where c.arm = {literal(CHAMPION)} and c."at" >= {_time(progress.since + _SETTLES)} and c."at" <= {_time(at)}
    """).to_pylist()
    if not seen["rows"] and seen["every"] >= options.units:
        return "roll back", f"as a shadow, it predicted none of {quantity(seen['every'], 'row')}"
    share = f", of which {100 * seen['differing'] / seen['rows']:.1f} % differ" if seen["rows"] else ""
    words = f"{quantity(seen['rows'], 'row')} mirrored{share}"
    return _waits(options.shadow or timedelta(), progress, at, (seen["rows"], options.units, words))


def step_decision(
    options: Rollout, progress: RolloutProgress, context: BuildContext, at: datetime
) -> tuple[Decision, str]:
    """Decide about a step from the outcomes of the units that both versions have predicted in it."""
    exposures = _exposures(options, progress, at)
    sums = context.query(sums_of(f"({exposures}) as predicted", ("unit", "arm", "at"), options.metrics, of_text=True))
    variants = ((CHAMPION, 1 - progress.share), (CHALLENGER, progress.share))
    rows = results(sums, variants, options.metrics, 2 * options.units, options.alpha / len(options.steps)).to_pylist()
    if (harm := harm_of(rows)) is not None:
        return "roll back", harm
    counts = {(row["metric"], row["variant"]): row["units"] for row in sums.to_pylist()}
    fewest, nobody = min(counts.get(("", name), 0) for name, _ in variants), counts.get((INCOMPLETE, None), 0)
    words = f"{quantity(fewest, 'unit')} of each version, no harm"
    words += f" ({quantity(nobody, 'row')} without a unit)" if nobody else ""
    decision, reason = _waits(options.every, progress, at, (fewest, options.units, words))
    unmatched = _unmatched(options, exposures, progress, context) if decision == "go on" else ""
    return ("wait", f"{reason}, but {unmatched}") if unmatched else (decision, reason)


def _unmatched(options: Rollout, exposures: str, progress: RolloutProgress, context: BuildContext) -> str:
    """Return which outcomes of this step are all of units that nobody predicted: then, the units have other texts there."""
    for metric in options.metrics:
        unit, time, of = quoted(metric.unit), quoted(metric.time), quoted(metric.of)
        [row] = context.query(f"""
            select count(*) as rows, count(*) filter (where {unit}::varchar in (select unit from ({exposures}) as predicted)) as matched
            from {of} where {time} >= {_time(progress.since)}
        """).to_pylist()
        if row["rows"] and not row["matched"]:
            rows = quantity(row["rows"], "row")
            return f"none of {rows} of {metric.of!r} since then is of a unit that was predicted: compare {metric.unit!r} with the log"
    return ""


def harm_of(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why a version must be withdrawn, `None` if nothing speaks against it."""
    for row in rows:
        if row["decision"] in {BROKEN, HARM, WORSE}:
            what = "the units are not divided as they should be" if row["metric"] is None else row["metric"]
            return f"{what}: {row['reason']}"
    return None


def _waits(
    least: timedelta, progress: RolloutProgress, at: datetime, seen: tuple[int, int, str]
) -> tuple[Decision, str]:
    """Return whether a step is over: it has lasted long enough, and enough was seen."""
    count, wanted, words = seen
    lasted, least = at - progress.since, max(least, _SETTLES)
    reason = f"{words} in {format_duration(timedelta(seconds=int(lasted.total_seconds())))}"
    if lasted < least:
        return "wait", f"{reason} of {format_duration(least)}"
    return ("wait", f"{reason}, needs {wanted:,}") if count < wanted else ("go on", reason)


def _exposures(options: Rollout, progress: RolloutProgress, at: datetime) -> str:
    """Return the SELECT of what the two versions have predicted in this step."""
    arms = {CHAMPION: progress.champion, CHALLENGER: progress.version}
    is_arm = " or ".join(f"(arm = {literal(arm)} and model_version = {number})" for arm, number in arms.items())
    begins, ends = _time(progress.since + _SETTLES), _time(at)
    return f'select * from {quoted(options.log)} where "at" between {begins} and {ends} and ({is_arm})'


def _time(moment: datetime) -> str:
    return f"timestamptz {literal(moment.astimezone(UTC).isoformat())}"
