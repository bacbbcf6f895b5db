"""Resolution of a statement's table names to inputs and CTEs.

Names are case-insensitive, as in DuckDB. A CTE hides a table of the same name in the rest of its WITH clause, in the query
that follows, and in everything nested there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp


@dataclass(frozen=True)
class Scope:
    """A statement whose table names are resolved to CTEs or inputs."""

    tree: exp.Query
    tables: tuple[exp.Table, ...]
    """Every table reference, including CTEs, in the order of the text."""
    bodies: Mapping[int, exp.Expr]
    """The query of the CTE that a reference, by its `id`, refers to; references to inputs are not included."""

    @classmethod
    def of(cls, tree: exp.Query) -> Scope:
        """Resolve the names of a statement."""
        tables: list[exp.Table] = []
        bodies: dict[int, exp.Expr] = {}
        waiting: list[tuple[exp.Expr, Mapping[str, exp.Expr]]] = [(tree, {})]
        while waiting:
            node, visible = waiting.pop()
            if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
                tables.append(node)
                body = None if node.db else visible.get(node.name.lower())
                if body is not None:
                    bodies[id(node)] = body
            defined, visible = _defined(node, visible)
            children = [(child, visible) for child in node.iter_expressions() if not isinstance(child, exp.With)]
            waiting.extend(reversed([*defined, *children]))
        return cls(tree, tuple(tables), bodies)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input tables without duplicates, spelled as first written; the driving input first."""
        driving = self.driving
        names = [table.name for table in self.tables if id(table) not in self.bodies]
        by_name: dict[str, str] = {} if driving is None else {driving.lower(): driving}
        for name in names:
            by_name.setdefault(name.lower(), name)
        return tuple(by_name.values())

    @property
    def driving(self) -> str | None:
        """The driving input: the first table after FROM, through CTEs and subqueries."""
        node: exp.Expr | None = self.tree
        while node is not None:
            if isinstance(node, exp.Table) and id(node) not in self.bodies:
                return self._as_first_written(node)
            node = self._next(node)
        return None

    def reads(self, name: str) -> int:
        """Return how often an input is read. A CTE counts once per reference, a recursive CTE once in total."""
        return self._reads(self.tree, name.lower(), ())

    def _reads(self, node: exp.Expr, name: str, inside: tuple[int, ...]) -> int:
        count = 0
        for table in _outside_with(node):
            body = self.bodies.get(id(table))
            if body is None:
                count += table.name.lower() == name
            elif id(body) not in inside:
                count += self._reads(body, name, (*inside, id(body)))
        return count

    def _next(self, node: exp.Expr) -> exp.Expr | None:
        if isinstance(node, exp.Subquery | exp.SetOperation):
            inner: exp.Expr | None = node.this
            return inner
        if isinstance(node, exp.Select):
            return relation(node)
        body = self.bodies.get(id(node))
        return None if body is None or any(body is above for above in _above(node)) else body

    def _as_first_written(self, table: exp.Table) -> str | None:
        if not isinstance(table.this, exp.Identifier):
            return None
        same = (t.name for t in self.tables if id(t) not in self.bodies and t.name.lower() == table.name.lower())
        return next(same)


def relation(select: exp.Select) -> exp.Expr | None:
    """Return the first FROM item, or `None` without FROM."""
    from_ = select.args.get("from_")
    first: exp.Expr | None = None if from_ is None else from_.this
    return first


def tables_of(tree: exp.Query) -> tuple[str, ...]:
    """Return the input tables of a statement without CTEs and duplicates, the driving input first."""
    return Scope.of(tree).inputs


def driving_of(tree: exp.Query) -> str | None:
    """Return the driving input of a statement: the first table after FROM, through CTEs and subqueries."""
    return Scope.of(tree).driving


def _defined(
    node: exp.Expr, visible: Mapping[str, exp.Expr]
) -> tuple[list[tuple[exp.Expr, Mapping[str, exp.Expr]]], Mapping[str, exp.Expr]]:
    """Return a query's CTEs with the names visible to each, and the names visible to the query."""
    with_ = node.args.get("with_")
    defined: list[tuple[exp.Expr, Mapping[str, exp.Expr]]] = []
    for cte in [] if with_ is None else with_.expressions:
        after = {**visible, cte.alias.lower(): cte.this}
        defined.append((cte.this, after if with_ is not None and with_.args.get("recursive") else visible))
        visible = after
    return defined, visible


def _outside_with(node: exp.Expr) -> Iterator[exp.Table]:
    for part in node.walk(prune=lambda n: isinstance(n, exp.With)):
        if isinstance(part, exp.Table) and isinstance(part.this, exp.Identifier):
            yield part


def _above(node: exp.Expr) -> Iterator[exp.Expr]:
    parent = node.parent
    while parent is not None:
        yield parent
        parent = parent.parent
