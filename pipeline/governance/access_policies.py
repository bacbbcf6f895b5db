"""Who may read which rows and columns of a table through an endpoint: declared beside the definitions, in SQL.

A policy is applied to the rows of a table before anything else: what a request selects, filters, orders or groups by are
only the rows and values that its caller may see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from types import MappingProxyType

import sqlglot
from sqlglot import exp

from pipeline.core.definitions import LAYERS, StoredDefinition, caller, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.graph import Graph
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.syntax.function_calls import function_name, is_known, is_volatile
from pipeline.kernel.syntax.row_expressions import require_row_expression

Claims = Mapping[str, str | tuple[str, ...]]
"""What is known of a caller, by name: a text or several."""
_UsedClaims = tuple[tuple[str, str | tuple[str, ...] | None], ...]
"""The claims that a policy uses, in the order of their names; `None` for one that is not known."""
_MOST_BOUND = 4_096
"""How many expressions with their claims are kept: every request of a caller needs the same ones."""
_CLAIM, _CLAIMS = "claim", "claims"
_ROWS = "t"
"""The name of a table's rows within the SQL of a policy."""


@dataclass(frozen=True)
class AccessPolicy:
    """Which rows and columns of tables callers with certain roles may read. Create it with `access_policy`."""

    tables: tuple[str, ...]
    """Names of tables and layers; empty for all tables."""
    roles: tuple[str, ...] = ()
    """Patterns of the roles that it is for; empty for every caller."""
    rows: str | None = None
    hide: tuple[str, ...] = ()
    mask: tuple[tuple[str, str], ...] = ()
    """Columns with the expressions that replace their values."""
    public: bool = False
    place: Place = field(default=Place(""), compare=False)
    name: str = ""

    @cached_property
    def claims(self) -> frozenset[str]:
        """The names of the claims that it uses."""
        return frozenset(name for text in self._expressions for name in _claims_in(_parsed(text)))

    def rank(self, definition: StoredDefinition) -> int | None:
        """Return how narrowly it names a table: 2 by its name, 1 by its layer, 0 among all; `None` if it does not."""
        if definition.name in self.tables:
            return 2
        if definition.layer in self.tables:
            return 1
        return None if self.tables else 0

    def is_for(self, roles: Iterable[str], *, is_anonymous: bool) -> bool:
        """Return whether it is for a caller with these roles."""
        if is_anonymous:
            return self.public
        return not self.roles or any(fnmatchcase(role, pattern) for role in roles for pattern in self.roles)

    def fingerprint(self, claims: Claims) -> str:
        """Return the SHA-256 of what it shows to a caller with these claims: callers with the same hash see the same."""
        return hashlib.sha256(repr((self.rows, self.hide, self.mask, self._used(claims))).encode()).hexdigest()

    def relation(
        self, rows: str, columns: Sequence[str], claims: Claims, types: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        """Return a SELECT of what a caller with these claims may see, from a SELECT of a table's rows with these columns.

        Masked columns have the given types, otherwise those of their expressions.
        """
        used = self._used(claims)
        masks = {name: _bound(text, used) for name, text in self.mask}
        masks |= {name: f"cast({masks[name]} as {kind})" for name, kind in types.items() if name in masks}
        shown = ", ".join(
            f"{masks[name]} as {quoted(name)}" if name in masks else f"{_ROWS}.{quoted(name)}"
            for name in columns
            if name not in self.hide
        )
        where = "" if self.rows is None else f" where ({_bound(self.rows, used)})"
        return f"select {shown} from ({rows}) as {_ROWS}{where}"

    def _used(self, claims: Claims) -> _UsedClaims:
        return tuple((name, claims.get(name)) for name in sorted(self.claims))

    @property
    def _expressions(self) -> tuple[str, ...]:
        return (*(() if self.rows is None else (self.rows,)), *(text for _, text in self.mask))


def access_policy(
    *tables: str,
    roles: str | Sequence[str] = (),
    rows: str | None = None,
    hide: str | Sequence[str] = (),
    mask: Mapping[str, str] | None = None,
    public: bool = False,
) -> AccessPolicy:
    """Declare who may read which rows and columns of tables through endpoints. Assign the result to a name beside the definitions.

        sales = access_policy("orders", roles="sales", rows="region = claim('region')", mask={"email": "sha256(email)"}, hide="card")
        staff = access_policy("orders", roles=["finance", "audit-*"])
        open_data = access_policy("departure_delays", public=True)

    `tables` are names of tables and layers; without any, the policy is for all tables that are served. `roles` are those of
    the callers that it is for, where `*` matches any text; without any, it is for every caller with a valid key or token, and
    with `public=True` also for callers without one. A caller reads a table by the **first** policy that is for the caller: those that
    name the table come before those that name its layer, and these before the ones for all tables; otherwise they are in the
    order of the definitions. If policies name a table, its layer or all tables, and none is for a caller, the table does not
    exist for that caller. A table that no policy names can be read by every caller with a valid key or token.

    `rows` is a SQL condition on the rows that can be read. `mask` maps columns to the SQL expressions that replace their values,
    and `hide` names columns that do not exist for the caller. The expressions read the columns as they are in the table,
    `claim('region')` is a text that is known of the caller (null if it is not known), and `claims('regions')` a list of texts.

    Raises `DefinitionError` for an expression that is not one over a row, that is not deterministic, or that calls an
    unknown function, and for roles of a public policy.
    """
    place = caller()
    masks = dict(mask or {})
    for what, text in (
        *(() if rows is None else (("rows=", rows),)),
        *((f"mask= of {n!r}", t) for n, t in masks.items()),
    ):
        _require_expression(what, text, place)
    hidden = names(hide)
    twice = next((name for name in hidden if name in masks), None)
    if twice is not None:
        raise DefinitionError(f"column {twice!r} is both hidden and masked", do="choose one", place=place)
    if public and names(roles):
        raise DefinitionError("a public policy is for every caller", do="remove roles= or public=", place=place)
    return AccessPolicy(tables, names(roles), rows, hidden, tuple(masks.items()), public, place)


def policies_of(policies: Iterable[AccessPolicy], definition: StoredDefinition) -> tuple[AccessPolicy, ...]:
    """Return the policies that are for a table, in the order in which they apply."""
    ranked = [(rank, policy) for policy in policies if (rank := policy.rank(definition)) is not None]
    return tuple(policy for _, policy in sorted(ranked, key=lambda pair: -pair[0]))


def require_known_tables(policies: Iterable[AccessPolicy], graph: Graph) -> None:
    """Raise `DefinitionError` for a policy of a table that does not exist."""
    known = (*LAYERS, *(definition.name for definition in graph.all_of(StoredDefinition)))
    for policy in policies:
        for name in policy.tables:
            if name not in known:
                problem = f"access_policy names a table {name!r}, which does not exist"
                raise DefinitionError(problem, do=did_you_mean(name, known), place=policy.place)


def _require_expression(what: str, text: str, place: Place) -> None:
    require_row_expression(what, text, place)
    tree = _parsed(text)
    for node in tree.find_all(exp.Func):
        if function_name(node) in {_CLAIM, _CLAIMS}:
            arguments = node.expressions
            if len(arguments) != 1 or not isinstance(arguments[0], exp.Literal) or not arguments[0].is_string:
                problem = f"{what} calls {function_name(node)} without the name of a claim"
                raise DefinitionError(problem, got=repr(text), do="write claim('region')", place=place)
        elif is_volatile(node):
            problem = f"{what} calls {function_name(node)}, which returns another value each time"
            do = "use columns and claims only, because responses are cached"
            raise DefinitionError(problem, got=repr(text), do=do, place=place)
        elif not is_known(node):
            raise DefinitionError(
                f"{what} calls an unknown function {function_name(node)!r}", got=repr(text), place=place
            )


def _parsed(text: str) -> exp.Expr:
    return sqlglot.parse_one(f"({text}\n)", dialect="duckdb")


def _claims_in(tree: exp.Expr) -> Iterable[str]:
    for node in tree.find_all(exp.Anonymous):
        if function_name(node) in {_CLAIM, _CLAIMS}:
            yield str(node.expressions[0].this)


@lru_cache(_MOST_BOUND)
def _bound(text: str, used: _UsedClaims) -> str:
    """Return an expression with the claims as constants, and its columns as those of the table."""
    claims = dict(used)

    def bind(node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.Anonymous) and function_name(node) in {_CLAIM, _CLAIMS}:
            return sqlglot.parse_one(
                _constant(claims, str(node.expressions[0].this), function_name(node)), dialect="duckdb"
            )
        if isinstance(node, exp.Column) and not node.table:
            return exp.column(exp.to_identifier(node.name, quoted=True), table=_ROWS)
        return node

    return _parsed(text).transform(bind).sql("duckdb", comments=False)


def _constant(claims: Mapping[str, str | tuple[str, ...] | None], name: str, function: str) -> str:
    value = claims.get(name)
    if function == _CLAIMS:
        texts = () if value is None else (value,) if isinstance(value, str) else value
        return f"cast([{', '.join(literal(each) for each in texts)}] as varchar[])"
    return f"cast({literal(value) if isinstance(value, str) else 'null'} as varchar)"
