"""Marts: SELECTs for analysis, each with an owner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.definitions import Chart, Expectation, Table, caller, names
from pipeline.kernel.sql import SqlTransform, sql_table


@dataclass(frozen=True, kw_only=True)
class Mart(Table):
    """A mart. Create it with `mart`."""

    owner: str = ""
    """Who is responsible for it: a team or an address."""
    business_unit: str = ""
    """The part of the company that it is for."""

    @property
    def responsible(self) -> str:
        """The owner, and the business unit in parentheses."""
        return f"{self.owner} ({self.business_unit})".strip() if self.business_unit else self.owner


def mart(
    text: str,
    *,
    key: str | Sequence[str] | None = None,
    owner: str = "",
    business_unit: str = "",
    expect: Sequence[Expectation] = (),
    description: str = "",
    chart: Chart | None = None,
) -> Table:
    """Define a mart: a SELECT for analysis, with an optional chart in the report.

    `owner` is who is responsible for it, and `business_unit` the part of the company that it is for; `headwater ls` shows
    both.
    """
    return sql_table(
        SqlTransform(text),
        caller(),
        kind=Mart,
        layer="gold",
        role="mart",
        key=names(key),
        expect=tuple(expect),
        description=description,
        chart=chart,
        owner=owner,
        business_unit=business_unit,
    )
