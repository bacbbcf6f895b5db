"""The keys and the aggregates of a grouped SELECT, independent of case, quotes and qualifiers.

In GROUP BY, HAVING and expressions, DuckDB resolves a name to a column if the table has one, otherwise to an alias of the
SELECT list; a single name in ORDER BY is the alias. The columns of the tables are not known here, so a name that could be
either is ambiguous.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from sqlglot import exp

from pipeline.kernel.syntax.function_calls import aggregates_of, is_aggregate
from pipeline.kernel.syntax.scope import relation

_NO_PARTS = (exp.Identifier, exp.DataType, exp.Literal, exp.Var)


@dataclass(frozen=True)
class Matcher:
    """The distinct keys and aggregates of a SELECT, and their replacement in expressions."""

    merged: str
    keys: tuple[exp.Expr, ...]
    calls: tuple[exp.Expr, ...]
    columns: Mapping[str, str]
    """The merged column of each key and call, by their text."""
    only: str | None
    """The name of the relation if there is only one, so that its qualifier is redundant."""

    @classmethod
    def of(cls, tree: exp.Select, merged: str, keys: Iterable[exp.Expr], calls: Iterable[exp.Expr]) -> Matcher:
        """Number the keys `_k0…` and the calls `_a0…`, as columns of the table `merged`."""
        only = _only(tree)
        by_key = {_text(key, only): key for key in keys}
        by_call = {_text(call, only): call for call in calls}
        columns = {text: f"_k{i}" for i, text in enumerate(by_key)} | {text: f"_a{i}" for i, text in enumerate(by_call)}
        return cls(merged, tuple(by_key.values()), tuple(by_call.values()), columns, only)

    def over(self, node: exp.Expr, aliases: Mapping[str, exp.Expr] | None = None) -> exp.Expr:
        """Return an expression over the merged columns, with `aliases` replaced by their expressions."""
        aliases = aliases or {}

        def replaced(part: exp.Expr) -> exp.Expr:
            if isinstance(part, _NO_PARTS):
                return part
            column = self.columns.get(_text(part, self.only))
            if column is not None:
                return exp.column(column, table=self.merged)
            if isinstance(part, exp.Column) and not part.table and part.name.lower() in aliases:
                return exp.paren(self.over(aliases[part.name.lower()]), copy=False)
            return part

        return node.copy().transform(replaced)


def aliases_of(tree: exp.Select) -> dict[str, exp.Expr]:
    """Return the aliased expressions of a SELECT list by their alias in lower case, except `x as x`."""
    aliased = {e.alias.lower(): e.unalias() for e in tree.expressions if isinstance(e, exp.Alias)}
    return {name: e for name, e in aliased.items() if not _is_column(e, name)}


def keys_of(tree: exp.Select) -> list[exp.Expr]:
    """Return the expressions that a SELECT groups by."""
    group = tree.args.get("group")
    if group is None:
        return []
    if group.args.get("all"):
        aggregates = set(map(id, aggregates_of(tree)))
        return [e.unalias() for e in tree.expressions if not any(id(n) in aggregates for n in e.walk())]
    return [_key(key, tree) for key in group.expressions]


def text_in(node: exp.Expr, tree: exp.Select) -> str:
    """Return the normalized text of an expression of a SELECT."""
    return _text(node, _only(tree))


def normalised(tree: exp.Select) -> exp.Select:
    """Return a SELECT that is normalized in layout, comments, case, quotes and table aliases."""
    copy = tree.copy()
    relations = [node for node in (relation(copy), *(j.this for j in copy.args.get("joins") or ())) if node is not None]
    names = [table.name if isinstance(table, exp.Table) else "" for table in relations]
    owners = {table.alias_or_name.lower(): name.lower() for table, name in zip(relations, names, strict=True)}
    if not all(names) or len({name.lower() for name in names}) < len(names):
        owners = {}  # a table that is read twice needs its aliases
    for table in relations if owners else ():
        alias = table.args.get("alias")
        if alias is not None and not alias.columns:
            table.set("alias", None)

    def plain(part: exp.Expr) -> exp.Expr:
        if isinstance(part, exp.Identifier):
            return exp.to_identifier(part.name.lower(), quoted=True)
        if isinstance(part, exp.Column) and part.table.lower() in owners and not part.args.get("db"):
            owner = owners[part.table.lower()] if len(owners) > 1 else None
            return exp.column(part.name.lower(), table=owner, quoted=True)
        return part

    return cast("exp.Select", copy.transform(plain))


def unclear_name(tree: exp.Select) -> str | None:
    """Return why a name is ambiguous between a column and an alias, if that could change the result."""
    names = [e.alias_or_name.lower() for e in tree.expressions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return f"{twice!r} names two columns"
    aliases = aliases_of(tree)
    before, after = _names(tree.expressions) | _names(_before_groups(tree)), _names(_after(tree))
    for name, expression in aliases.items():
        if name not in before and name not in after:
            continue
        ours = name in _names([expression])
        if (not ours and name in before) or (ours and name in after):
            return f"{name!r} is ambiguous: it may be a column or an alias"
    return _unclear_key(tree, aliases)


def _key(key: exp.Expr, tree: exp.Select) -> exp.Expr:
    if isinstance(key, exp.Literal) and key.is_int:
        expression: exp.Expr = tree.expressions[int(key.this) - 1].unalias()
        return expression
    if not isinstance(key, exp.Column) or key.table:
        return key
    named = aliases_of(tree).get(key.name.lower())
    return key if named is None or key.name.lower() in _names([named]) else named


def _unclear_key(tree: exp.Select, aliases: Mapping[str, exp.Expr]) -> str | None:
    """Return why a key is ambiguous; an alias is not ambiguous if the statement were invalid with a column instead."""
    group = tree.args.get("group")
    for key in [] if group is None else group.expressions:
        if isinstance(key, exp.Literal):
            if not key.is_int or not 0 < int(key.this) <= len(tree.expressions):
                return f"it groups by {key.sql('duckdb')}"
            continue
        named = aliases.get(key.name.lower()) if isinstance(key, exp.Column) and not key.table else None
        if named is None or key.name.lower() in _names([named]):
            continue
        others = _names(other for other in group.expressions if other is not key) if group is not None else set()
        if _names([named]) <= others or any(is_aggregate(node) for node in named.walk()):
            return f"{key.name!r} is ambiguous: it may be a column or an alias"
    return None


def _before_groups(tree: exp.Select) -> Iterator[exp.Expr]:
    yield from (tree.args[name] for name in ("where",) if tree.args.get(name))
    yield from tree.args.get("joins") or []
    group = tree.args.get("group")
    for key in [] if group is None else group.expressions:
        if not isinstance(key, exp.Column) or key.table:
            yield key


def _after(tree: exp.Select) -> Iterator[exp.Expr]:
    if tree.args.get("having"):
        yield tree.args["having"]
    order = tree.args.get("order")
    for ordered in [] if order is None else order.expressions:
        if not isinstance(ordered.this, exp.Column):
            yield ordered


def _names(nodes: Iterable[exp.Expr]) -> set[str]:
    return {column.name.lower() for node in nodes for column in node.find_all(exp.Column)}


def _is_column(node: exp.Expr, name: str) -> bool:
    return isinstance(node, exp.Column) and node.name.lower() == name


def _only(tree: exp.Select) -> str | None:
    first = relation(tree)
    return None if first is None or tree.args.get("joins") else first.alias_or_name.lower()


def _text(node: exp.Expr, only: str | None) -> str:
    """Return the normalized text of an expression."""

    def plain(part: exp.Expr) -> exp.Expr:
        if isinstance(part, exp.Identifier):
            return exp.to_identifier(part.name.lower(), quoted=True)
        if isinstance(part, exp.Column) and only is not None and part.table.lower() == only:
            return exp.column(part.name.lower(), quoted=True)
        return part

    return node.copy().transform(plain).sql("duckdb", comments=False)
