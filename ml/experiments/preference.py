"""Which of two interleaved rankings units prefer: a table that is computed from clicks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from ml.companions import CompanionTable, StatementTransform
from ml.experiments.options import require_plan, require_text
from ml.experiments.sequential import always_valid_share, concentration_for
from pipeline.core.definitions import Definition, Layer, Table, caller
from pipeline.core.errors import DefinitionError
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.sql_text import literal, quoted

if TYPE_CHECKING:
    import pyarrow as pa

BROKEN = "broken"
WIN, LOSS, TIE, INCOMPLETE, NOT_A_NUMBER, UNKNOWN = "win", "loss", "tie", "incomplete", "not a number", "unknown"


@dataclass(frozen=True)
class PreferenceTransform:
    """Computes the preference from the units by outcome; called with all rows of its input."""

    inputs: tuple[str, ...]
    rankings: tuple[str, str]
    units: int
    alpha: float

    @property
    def fingerprint(self) -> str:
        """A hash of what the result depends on besides the counts."""
        return fingerprint("interleaving", repr(replace(self, inputs=())))

    @property
    def language(self) -> str:
        """`arrow`."""
        return "arrow"

    def __call__(self, *args: Any, **tables: Any) -> pa.Table:
        """Return one row: how many units prefer the second ranking, and whether that can be chance."""
        given = {**dict(zip(self.inputs, args, strict=False)), **tables}
        counts = {(row["outcome"], row["ranking"]): row["units"] for row in given[self.inputs[0]].to_pylist()}
        return preference(counts, self.rankings, self.units, self.alpha)


@dataclass(frozen=True, kw_only=True)
class Interleaving(Table):
    """Which of two rankings units prefer: one row."""

    transform: PreferenceTransform
    clicks: str
    unit: str
    ranking: str
    value: str

    @cached_property
    def companions(self) -> tuple[Definition, ...]:
        """The table of units by outcome that it is computed from."""
        expressions = tuple((self.clicks, sql) for sql in (quoted(self.unit), quoted(self.ranking), self.value))
        counts = CompanionTable(
            place=self.place,
            name=f"{self.name}_counts",
            description=f"Units of the interleaving {self.name}, by the ranking that they prefer.",
            transform=StatementTransform(self._statement(), (self.clicks,), expressions),
            layer="silver",
            role="interleaving counts",
            belongs_to=self.name,
        )
        return (counts,)

    def named(self, name: str) -> Self:
        """Return the interleaving with this name, and with its input."""
        interleaving = super().named(name)
        transform = replace(interleaving.transform, inputs=(f"{interleaving.name}_counts",))
        return replace(interleaving, transform=transform)

    def _statement(self) -> str:
        """Return the SELECT of units by outcome; a ranking is named only where it is unknown."""
        old, new = map(literal, self.transform.rankings)
        unit, ranking = quoted(self.unit), quoted(self.ranking)
        clicks = f"select {unit} as unit, {ranking}::varchar as ranking, ({self.value})::double as value from {quoted(self.clicks)}"
        known = f"ranking in ({old}, {new})"
        return f"""
            select case when isnan(credit) then {literal(NOT_A_NUMBER)} when credit > 0 then {literal(WIN)}
                        when credit < 0 then {literal(LOSS)} else {literal(TIE)} end as outcome,
                   null::varchar as ranking, count(*) as units
            from (
                select unit, coalesce(sum(case when ranking = {new} then value else -value end), 0) as credit
                from ({clicks}) as each_click where unit is not null and {known} group by unit
            ) as each_unit group by all
            union all
            select {literal(INCOMPLETE)} as outcome, null::varchar as ranking, count(*) as units
            from ({clicks}) as each_click where unit is null or ranking is null
            union all
            select {literal(UNKNOWN)} as outcome, ranking, count(*) as units
            from ({clicks}) as each_click where unit is not null and not ({known}) group by ranking
        """


def interleaving(  # noqa: PLR0913 - options of a definition, all keyword-only
    *,
    rankings: Sequence[str],
    clicks: str,
    unit: str,
    ranking: str = "ranking",
    value: str = "1",
    units: int = 1000,
    alpha: float = 0.05,
    layer: Layer = "gold",
    description: str = "",
) -> Interleaving:
    """Compare two rankings by the clicks on lists that `interleave` made of them; see `docs/experiments.md`.

    `rankings` are the names of both, the present one first. `clicks` is a table with a row for each click: its columns `unit`, and
    `ranking`, the name of the ranking that the click is credited to. `value` is a SQL expression of a click, the credit. `units` is
    the planned number of units, at which the interval is the shortest. `alpha` is the probability of a wrong result, at any time.

    Raises `DefinitionError` unless two different rankings are named, and for numbers that are out of range.
    """
    place = caller()
    is_two = isinstance(rankings, Sequence) and not isinstance(rankings, str) and len(rankings) == 2  # noqa: PLR2004 - one against the other
    if not is_two or rankings[0] == rankings[1]:
        do = 'pass two names: rankings=("old", "new")'
        raise DefinitionError("an interleaving compares two rankings", got=repr(rankings), do=do, place=place)
    for name in rankings:
        require_text(name, "the name of a ranking", place)
    for option, text in {"clicks": clicks, "unit": unit, "ranking": ranking, "value": value}.items():
        require_text(text, f"{option}=", place)
    require_plan(units, alpha, place)
    old, new = rankings
    return Interleaving(
        place=place,
        description=description or f"Whether {new} ranks better than {old}, by {clicks}.",
        transform=PreferenceTransform((), (old, new), units, alpha),
        layer=layer,
        role="interleaving",
        clicks=clicks,
        unit=unit,
        ranking=ranking,
        value=value,
    )


def preference(
    counts: Mapping[tuple[str, str | None], int], rankings: tuple[str, str], units: int, alpha: float
) -> pa.Table:
    """Return the row of an interleaving, from the units by outcome: by the sign test, whose result is valid at any time."""
    import pyarrow as pa  # noqa: PLC0415 - needed only when results are computed

    wins, losses, ties = (counts.get((outcome, None), 0) for outcome in (WIN, LOSS, TIE))
    interval = always_valid_share(wins, losses, concentration_for(units, alpha), alpha)
    decision = "better" if interval.low > 0.5 else "worse" if interval.high < 0.5 else "undecided"  # noqa: PLR2004 - no preference
    nan, incomplete = counts.get((NOT_A_NUMBER, None), 0), counts.get((INCOMPLETE, None), 0)
    unknown = sorted((str(name), number) for (outcome, name), number in counts.items() if outcome == UNKNOWN)
    reasons = [f"unknown ranking {name!r}: {number:,} clicks" for name, number in unknown]
    reasons += [f"{nan:,} units with a value that is not a number"] if nan else []
    if reasons:
        decision = BROKEN
    reasons += [f"{incomplete:,} clicks without unit or ranking"] if incomplete else []
    decided = wins + losses
    row = {
        "ranking": rankings[1],
        "against": rankings[0],
        "units": decided + ties,
        "wins": wins,
        "losses": losses,
        "ties": ties,
        "share": wins / decided if decided else None,
        "low": interval.low,
        "high": interval.high,
        "p_value": interval.p,
        "decision": decision,
        "reason": "; ".join(reasons),
    }
    texts, numbers = {"ranking", "against", "decision", "reason"}, {"share", "low", "high", "p_value"}
    types = [(name, pa.string() if name in texts else pa.float64() if name in numbers else pa.int64()) for name in row]
    return pa.Table.from_pylist([row], schema=pa.schema(types))
