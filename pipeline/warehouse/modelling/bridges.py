"""Bridges: between a fact and several members of a dimension, and between a member and all that are above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.core.definitions import Expectation, Table, caller, names
from pipeline.core.errors import DefinitionError, did_you_mean
from pipeline.kernel.sql import parse
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.warehouse.modelling.facts import fact_table
from pipeline.warehouse.modelling.lookups import Lookup

WEIGHT = "weight"
ANCESTOR, DESCENDANT, DEPTH = "ancestor", "descendant", "depth"
MOST_LEVELS = 200
"""The number of levels of a parent-child hierarchy beyond which it is taken for a circle."""


def bridge(
    text: str,
    *,
    group: str | Sequence[str],
    lookups: Mapping[str, Lookup],
    grain: str = "",
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> Table:
    """Define a bridge between a group and its members, for a fact that relates to several members of a dimension.

    The SELECT returns a row for each member of each `group`, which is what the fact has as a column. `weight` is the share of
    a member; without such a column, the members of a group have equal shares. A run fails if the weights of a group do not
    add up to 1.

    Raises `DefinitionError` without lookups, and for a SELECT that lacks a column of the group or of a lookup.
    """
    place = caller()
    if not lookups:
        raise DefinitionError("a bridge looks up no dimension", do="set lookups=", place=place)
    columns, groups = parse(text, place=place).named_selects, names(group)
    members = tuple(dict.fromkeys(ours for look in lookups.values() for ours, _ in look.on))
    for name in (*groups, *members):
        if name not in columns:
            do = did_you_mean(name, columns)
            raise DefinitionError(f"the SELECT of the bridge has no column {name!r}", do=do, place=place)
    share = "" if WEIGHT in columns else f", 1 / count(*) over (partition by {listed(groups)}) as {WEIGHT}"
    wrong = literal("the weights of a group do not add up to 1: " + ", ".join(groups) + " = ")
    shown = " || ', ' || ".join(f"coalesce({quoted(name)}::varchar, 'null')" for name in groups)
    sums = f"select {listed(groups)}, sum({WEIGHT}) as _sum from members group by {listed(groups)}"
    checked = f"select max(case when abs(_sum - 1) > 1e-6 then error({wrong} || {shown}) else 0 end) from ({sums})"
    return fact_table(
        f"with members as (select *{share} from (\n{text}\n)) select * from members where coalesce(({checked}), 0) = 0",
        place,
        (*groups, *(name for name in members if name not in groups)),
        lookups,
        kind="bridge",
        grain=grain,
        expect=expect,
        description=description,
    )


def parent_child_bridge(
    text: str,
    *,
    child: str,
    parent: str,
    lookups: Mapping[str, Lookup] | None = None,
    grain: str = "",
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> Table:
    """Define a bridge between the members of a parent-child hierarchy and all that are above them.

    The SELECT returns the natural keys of a member and of its parent, which is null at the top. The bridge has a row for each
    `descendant` and `ancestor`, and `depth`, the number of levels between them: 0 for a member and itself. A run fails if
    members are in a circle, or deeper than 200 levels.

    Raises `DefinitionError` for a SELECT that lacks a column.
    """
    place = caller()
    columns = parse(text, place=place).named_selects
    for name in (child, parent):
        if name not in columns:
            do = did_you_mean(name, columns)
            raise DefinitionError(f"the SELECT of the bridge has no column {name!r}", do=do, place=place)
    circle = literal(f"members are in a circle, or deeper than {MOST_LEVELS} levels: {child} = ")
    return fact_table(
        f"""
        with recursive members as (
            select distinct {quoted(child)} as _child, {quoted(parent)} as _parent from (\n{text}\n)
            where {quoted(child)} is not null
        ),
        paths as (
            select _child as {ANCESTOR}, _child as {DESCENDANT}, 0 as {DEPTH} from members
            union all
            select m._parent, p.{DESCENDANT},
                   case when p.{DEPTH} < {MOST_LEVELS} then p.{DEPTH} + 1 else error({circle} || p.{DESCENDANT}) end
            from paths p join members m on m._child = p.{ANCESTOR} where m._parent is not null
        )
        select {ANCESTOR}, {DESCENDANT}, min({DEPTH})::integer as {DEPTH} from paths group by {ANCESTOR}, {DESCENDANT}
        """,
        place,
        (ANCESTOR, DESCENDANT),
        lookups,
        kind="bridge",
        grain=grain,
        expect=expect,
        description=description,
    )
