"""Whether running a statement on each bucket of an exchange gives the correct result, analyzed from FROM upward.

Each rule allows what is known to be correct and raises `NotPartitionableError` for anything else. Subqueries in expressions
must be replicated, or *pinned*: restricted by their WHERE to the key of the outer row, whose rows are all in its bucket.
A resolved name is only used as evidence for a key; an ambiguous name is no evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sqlglot import exp

from pipeline.kernel.planner.canonical import Term
from pipeline.kernel.planner.distribution import (
    Distribution,
    Equality,
    Kind,
    NotPartitionableError,
    both,
    filtered,
    require_colocated,
    set_operation,
)
from pipeline.kernel.planner.relations import Columns, Relation, VisibleColumns, star_of
from pipeline.kernel.planner.resolver import ExpressionResolver, SelectScope
from pipeline.kernel.syntax.function_calls import aggregates_of, is_aggregate, is_known, own

_CLAUSES = frozenset(
    [
        "with_",
        "expressions",
        "from_",
        "joins",
        "where",
        "group",
        "having",
        "windows",
        "qualify",
        "distinct",
        "order",
        "limit",
        "offset",
    ]
)
_SET_CLAUSES = frozenset({"this", "expression", "distinct", "by_name", "with_", "order", "limit", "offset"})
_SETS = (exp.Rollup, exp.Cube, exp.GroupingSets)
_KINDS = frozenset({"", "INNER", "OUTER", "CROSS", "SEMI", "ANTI"})


@dataclass(frozen=True)
class _Joined:
    """A relation of a FROM clause and its join, with the names, terms and conditions in the scope of the join."""

    relation: Relation
    kind: Kind
    check: Kind
    """The join type whose rules apply; for an ASOF join, which needs all rows of its right side, a left join."""
    on: exp.Expr | None
    frame: VisibleColumns
    equals: list[Equality]
    after: Mapping[Term, Term]
    """New terms for the columns that the join may set to null."""
    coalesced: frozenset[Term]
    """For a FULL JOIN: the keys coalesced from both sides."""
    what: str


class PartitioningAnalysis(ExpressionResolver):
    """One analysis of a statement, from its tables upward."""

    def query(self, node: exp.Expr, frames: tuple[SelectScope, ...] = (), *, top: bool = False) -> Relation:
        """Return the columns and the distribution of a query nested in `frames`, the innermost first."""
        if isinstance(node, exp.Subquery) and not any(v and k not in {"this", "alias"} for k, v in node.args.items()):
            return self.query(node.this, frames, top=top)
        if isinstance(node, exp.SetOperation):
            relation = self._set(node, frames)
        elif isinstance(node, exp.Select):
            relation = self._select(node, frames)
        else:
            raise NotPartitionableError(f"{node.sql('duckdb')} needs all rows at once")
        cut = next((c for c in ("limit", "offset") if node.args.get(c)), None)
        if cut is not None and not top and not relation.share.is_replicated:
            raise NotPartitionableError(f"{cut.upper()} inside a statement needs all rows at once")
        return relation

    # --- FROM

    def _item(self, node: exp.Expr, frames: tuple[SelectScope, ...]) -> tuple[str, Relation]:
        """Return the name and the relation of a FROM item."""
        known = (
            {"this", "alias", "expressions", "value_constructor"}
            if isinstance(node, exp.Values | exp.Unnest)
            else {"this", "alias"}
        )
        if any(value and name not in known for name, value in node.args.items()):
            raise NotPartitionableError(f"{node.sql('duckdb')} needs all rows at once")
        alias = node.args.get("alias")
        columns = [] if alias is None else alias.args.get("columns") or []
        return node.alias_or_name.lower(), self._relation(node, frames).called(columns)

    def _relation(self, node: exp.Expr, frames: tuple[SelectScope, ...]) -> Relation:
        body = self.scope.bodies.get(id(node))
        if body is not None:
            aliases = body.parent.args["alias"].args.get("columns") if body.parent is not None else None
            return self._inside(body, ()).called(aliases or [])
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            return self._read(node.name.lower())
        if isinstance(node, exp.Subquery | exp.Lateral) and isinstance(node.this, exp.Query):
            return self._inside(node.this, frames)
        if isinstance(node, exp.Values | exp.Unnest) and node.find(exp.Query) is None:
            names = node.args["alias"].args.get("columns") if node.args.get("alias") else None
            if names and (isinstance(node, exp.Values) or len(names) == len(node.expressions)):
                return Relation(tuple(("", self.terms.fresh()) for _ in names), self._everywhere())
        raise NotPartitionableError(f"the columns of {node.sql('duckdb')} are not known")

    def _inside(self, query: exp.Expr, frames: tuple[SelectScope, ...]) -> Relation:
        """Return the relation of a query; unless it is replicated, all of its names must resolve to it or to `frames`."""
        before = self._unresolved
        relation = self.query(query, frames)
        if self._unresolved > before and not relation.share.is_replicated:
            raise NotPartitionableError(f"a name in ({query.sql('duckdb')}) is not one of its columns")
        return relation

    def _from(self, select: exp.Select, frames: tuple[SelectScope, ...]) -> tuple[VisibleColumns, list[list[_Joined]]]:
        """Return the names of a FROM clause and its joins, as one list per comma-separated item."""
        first = select.args["from_"].this
        names, chains = VisibleColumns(), list[list[_Joined]]()
        waiting = [exp.Join(this=first), *(select.args.get("joins") or [])]
        chain = VisibleColumns()
        for join in waiting:
            if not any(value for name, value in join.args.items() if name != "this"):  # a comma
                names, chain = names.beside(chain), VisibleColumns()
                alias, relation = self._item(join.this, frames)
                chains.append(
                    [_Joined(relation, "inner", "inner", None, VisibleColumns(), [], {}, frozenset(), f"{alias!r}")]
                )
                chain = VisibleColumns.of(alias, relation.columns)
            else:
                step, chain = self._join(join, chain, frames)
                chains[-1].append(step)
        return names.beside(chain), chains

    def _join(
        self, join: exp.Join, left: VisibleColumns, frames: tuple[SelectScope, ...]
    ) -> tuple[_Joined, VisibleColumns]:
        kind = _kind(join)
        alias, relation = self._item(join.this, frames)
        right = VisibleColumns.of(alias, relation.columns)
        using = [name.name.lower() for name in join.args.get("using") or []]
        if join.method == "NATURAL":
            using = [name for name, _ in right.star if left.find(name)]
        pairs = [(name, left.only(name), right.only(name)) for name in using]
        on, seen = join.args.get("on"), left.beside(right)
        equals = self._equals([(a, b, False) for _, a, b in pairs])
        equals += self._conditions(on, (SelectScope(seen, self._everywhere()), *frames))
        lost = {"left": right, "right": left, "full": seen}.get(kind, VisibleColumns())
        after = {term: self.terms.fresh(self.terms.type_of(term), term) for _, _, term in lost.qualified}
        after |= {t: self.terms.fresh(self.terms.type_of(t), t) for _, t in lost.star if t not in after}
        merged: dict[str, Term] = {}
        for name, a, b in pairs:
            merged[name] = {"right": b, "full": _coalesce(after.get(a, a), after.get(b, b))}.get(kind, a)
        coalesced = {
            _coalesce(after[x], after[y])
            for e in equals
            for x, y in ((e.left, e.right), (e.right, e.left))
            if kind == "full" and x in after and y in after
        }
        check: Kind = "left" if join.method == "ASOF" else kind
        step = _Joined(relation, kind, check, on, seen, equals, after, frozenset(coalesced), f"{alias!r}")
        if kind in {"semi", "anti"}:
            return step, left
        return step, left.renamed(after).beside(right.renamed(after), merged)

    def _rows(
        self, chains: list[list[_Joined]], where: list[Equality], frames: tuple[SelectScope, ...]
    ) -> Distribution:
        """Return the distribution of the rows of FROM and WHERE."""
        inner = [e for chain in chains for step in chain if step.kind == "inner" for e in step.equals]
        pooled = [*where, *inner] if all(s.kind not in {"right", "full"} for c in chains for s in c) else where
        shares: list[Distribution] = []
        for chain in chains:
            share = chain[0].relation.share
            for step in chain[1:]:
                share = self._step(share, step, pooled, frames)
            shares.append(share)
        rows = shares[0]
        for share, chain in zip(shares[1:], chains[1:], strict=True):
            require_colocated(rows, share, "inner", pooled, chain[0].what)
            rows = both(rows, share)
        return filtered(rows, pooled)

    def _step(
        self, left: Distribution, step: _Joined, pooled: list[Equality], frames: tuple[SelectScope, ...]
    ) -> Distribution:
        right = step.relation.share
        if step.on is not None:
            self._subqueries(step.on, (SelectScope(step.frame, both(left, right)), *frames))
        inner = step.kind == "inner"
        require_colocated(
            left, right, step.check, [*step.equals, *pooled] if step.check == "inner" else step.equals, step.what
        )
        if step.kind in {"semi", "anti"}:
            return left
        is_replicated, pairs = left.is_replicated and right.is_replicated, both(left, right)
        matched = filtered(pairs, step.equals)
        if inner:
            return matched
        nullable_keys = matched.renamed(step.after)
        if step.kind == "full":
            return Distribution(
                is_replicated, tuple(self._either(left, right, step, i) for i in range(self.positions)), nullable_keys
            )
        kept = left if step.kind == "left" else right
        return Distribution(
            is_replicated, kept.keys, tuple(a | b for a, b in zip(kept.nullable_keys, nullable_keys, strict=True))
        )

    @staticmethod
    def _either(left: Distribution, right: Distribution, step: _Joined, i: int) -> frozenset[Term]:
        """Return the keys of a FULL JOIN, each coalesced from both sides."""
        pairs = ((step.after.get(a, a), step.after.get(b, b)) for a in left.keys[i] for b in right.keys[i])
        return step.coalesced & {term for a, b in pairs for term in (_coalesce(a, b), _coalesce(b, a))}

    # --- SELECT

    def _select(self, select: exp.Select, frames: tuple[SelectScope, ...]) -> Relation:
        clause = next((name for name, value in select.args.items() if value and name not in _CLAUSES), None)
        if clause is not None:
            raise NotPartitionableError(f"{clause.strip('_').upper()} needs all rows at once")
        names, chains = self._from(select, frames) if select.args.get("from_") else (VisibleColumns(), [])
        named = [(e.alias.lower(), e.unalias()) for e in select.expressions if isinstance(e, exp.Alias)]
        twice = Counter(alias for alias, _ in named)
        aliases = {alias: e if twice[alias] == 1 else exp.null() for alias, e in named}
        condition = select.args["where"].this if select.args.get("where") else None
        where = self._conditions(condition, (SelectScope(names, self._everywhere(), aliases), *frames))
        rows = self._rows(chains, where, frames) if chains else self._everywhere()
        if frames and not rows.is_replicated and self._is_pinned(rows, frames):
            rows = replace(rows, is_replicated=True)
        frame = SelectScope(names, rows, aliases)
        inside = (frame, *frames)
        self._calls(select, frame)
        for part in (
            *select.expressions,
            *(
                select.args[c]
                for c in ("where", "group", "having", "qualify", "order", "distinct")
                if select.args.get(c)
            ),
        ):
            self._subqueries(part, inside)
        columns = tuple(self._list(select, inside))
        self.outputs[id(select)] = frame, columns
        self._groups(select, columns, inside)
        self._windows(select, inside)
        self._distinct(select, columns, inside)
        return Relation(columns, rows)

    @staticmethod
    def _is_pinned(rows: Distribution, frames: tuple[SelectScope, ...]) -> bool:
        """Return whether the rows are restricted to the key of an outer row."""
        return bool(rows.keys) and all(
            any(keys & frame.share.any_of(i) for frame in frames) for i, keys in enumerate(rows.keys)
        )

    def _calls(self, select: exp.Select, frame: SelectScope) -> None:
        for call in own(select, exp.Func, exp.Columns):
            if isinstance(call, exp.Columns) or (not is_known(call) and not is_aggregate(call)):
                raise NotPartitionableError(f"{call.sql('duckdb')} is not known to work on a bucket")
        for call in aggregates_of(select):
            columns = [c for c in call.find_all(exp.Column) if not isinstance(c.this, exp.Star)]
            if columns and not any(frame.names.find(c.name.lower(), c.table.lower()) for c in columns):
                raise NotPartitionableError(f"{call.sql('duckdb')} may refer to the outer query: qualify its columns")

    def _list(self, select: exp.Select, frames: tuple[SelectScope, ...]) -> Iterator[tuple[str, Term]]:
        """Yield the columns of a SELECT list."""
        for e in select.expressions:
            star = e.this if isinstance(e, exp.Column) else e
            if isinstance(star, exp.Star):
                names = frames[0].names
                columns = names.of_table(e.table.lower()) if isinstance(e, exp.Column) else names.star
                for name, value in star_of(star, columns):
                    yield name, value if isinstance(value, str) else self.term(value, frames)
            else:
                name = e.alias if isinstance(e, exp.Alias) else e.name if isinstance(e, exp.Column) else ""
                yield name.lower(), self.term(e.unalias(), frames)

    def _groups(self, select: exp.Select, columns: Columns, frames: tuple[SelectScope, ...]) -> None:
        group, rows = select.args.get("group"), frames[0].share
        aggregates = next(aggregates_of(select), None)
        if group is None and aggregates is None and not select.args.get("having"):
            return
        keys = [] if group is None else [self._key_of(key, columns, frames) for key in group.expressions]
        if group is not None and group.args.get("all"):
            mine = set(map(id, aggregates_of(select)))
            keys = [
                self.term(e.unalias(), frames) for e in select.expressions if not any(id(n) in mine for n in e.walk())
            ]
        self.groups += keys
        if rows.is_replicated or select is self.merged:
            return
        if group is not None and (
            set(filter(group.args.get, group.args)) - {"expressions", "all"} or group.find(*_SETS)
        ):
            raise NotPartitionableError("grouping sets need all rows at once")
        if not rows.covered_by(keys):
            raise NotPartitionableError(
                "its groups do not contain the key" if keys else "it aggregates all rows at once"
            )

    def _key_of(self, key: exp.Expr, columns: Columns, frames: tuple[SelectScope, ...]) -> Term:
        if isinstance(key, exp.Literal) and key.is_int and 0 < int(key.this) <= len(columns):
            return columns[int(key.this) - 1][1]
        alias = frames[0].aliases.get(key.name.lower()) if isinstance(key, exp.Column) and not key.table else None
        term = self.term(key, frames)
        return term if alias is None or self.term(alias, frames) == term else self.terms.fresh()

    def _windows(self, select: exp.Select, frames: tuple[SelectScope, ...]) -> None:
        named = {w.name.lower(): w for w in select.args.get("windows") or []}
        for window in own(select, exp.Window):
            if any(window is w for w in named.values()):
                continue
            keys: list[exp.Expr] = []
            above: exp.Expr | None = window
            while above is not None:
                keys += above.args.get("partition_by") or []
                above = named.pop(above.args["alias"].name.lower(), None) if above.args.get("alias") else None
            named = {w.name.lower(): w for w in select.args.get("windows") or []}
            terms = [self.term(key, frames) for key in keys]
            self.groups += terms
            if not frames[0].share.covered_by(terms):
                raise NotPartitionableError(f"{window.sql('duckdb')} is not partitioned by the key")

    def _distinct(self, select: exp.Select, columns: Columns, frames: tuple[SelectScope, ...]) -> None:
        distinct = select.args.get("distinct")
        if distinct is None:
            return
        on = distinct.args.get("on")
        terms = (
            [term for _, term in columns] if on is None else [self._key_of(e, columns, frames) for e in on.expressions]
        )
        self.groups += terms
        if not frames[0].share.covered_by(terms):
            raise NotPartitionableError("DISTINCT compares rows of different buckets: the key is not among its columns")

    def _set(self, node: exp.SetOperation, frames: tuple[SelectScope, ...]) -> Relation:
        clause = next((name for name, value in node.args.items() if value and name not in _SET_CLAUSES), None)
        left, right = self.query(node.left, frames), self.query(node.right, frames)
        if clause is not None or node.args.get("by_name") or len(left.columns) != len(right.columns):
            raise NotPartitionableError(f"a {node.key.upper()} by name needs all rows at once")
        columns: list[tuple[str, Term]] = []
        sides: list[tuple[Term, Term, Term]] = []
        for (name, a), (_, b) in zip(left.columns, right.columns, strict=True):
            same = self._equals([(a, b, True)])
            own_term = self.terms.fresh(self.terms.type_of(a), a, b) if same else self.terms.fresh()
            columns.append((name, own_term))
            sides += [(own_term, a, b)] if same else []
        distinct = node.args.get("distinct")
        operation = "union all" if isinstance(node, exp.Union) and not distinct else node.key
        self.groups += [] if operation == "union all" else [a for _, a, _ in sides]
        return Relation(tuple(columns), set_operation(left.share, right.share, sides, operation))

    # --- subqueries in expressions

    def _subqueries(self, root: exp.Expr, frames: tuple[SelectScope, ...]) -> None:
        """Raise an error unless each subquery of an expression has the same result per bucket as over all rows."""
        for query in root.walk(prune=lambda n: isinstance(n, exp.Query)):
            if not isinstance(query, exp.Query):
                continue
            relation, parent = self._inside(query, frames), query.parent
            member = parent if isinstance(parent, exp.In) and parent.args.get("query") is query else None
            equals = [] if member is None else self._membership(member, relation, frames)
            if not relation.share.is_replicated and not (
                member is not None and self._is_local(member, relation, equals, frames)
            ):
                raise NotPartitionableError(f"({query.sql('duckdb')}) needs rows of other buckets")

    def _membership(self, member: exp.In, relation: Relation, frames: tuple[SelectScope, ...]) -> list[Equality]:
        operand = member.this.unnest()
        sides = operand.expressions if isinstance(operand, exp.Tuple) else [operand]
        pairs = zip(sides, relation.columns, strict=False)
        return self._equals([(self.term(side, frames), term, len(sides) > 1) for side, (_, term) in pairs])

    def _is_local(
        self, member: exp.In, relation: Relation, equals: list[Equality], frames: tuple[SelectScope, ...]
    ) -> bool:
        """Return whether IN finds all matches in the bucket, and is used where null and false are equivalent."""
        if not _filters(member):
            return False
        return any(_is_colocated(frame.share, relation.share, equals) for frame in frames)


def _is_colocated(outer: Distribution, inner: Distribution, equals: list[Equality]) -> bool:
    try:
        require_colocated(outer, inner, "semi", equals, "")
    except NotPartitionableError:
        return False
    return True


def _filters(node: exp.Expr) -> bool:
    """Return whether a condition is only used as a filter, in which null and false are equivalent."""
    parent = node.parent
    while isinstance(parent, exp.And | exp.Or | exp.Paren):
        parent = parent.parent
    return isinstance(parent, exp.Where | exp.Having | exp.Qualify | exp.Join)


def _kind(join: exp.Join) -> Kind:
    if join.kind not in _KINDS or join.method not in {"", "NATURAL", "ASOF"}:
        raise NotPartitionableError(f"a {join.method or join.kind} JOIN needs all rows at once")
    if join.kind == "SEMI":
        return "semi"
    if join.kind == "ANTI":
        return "anti"
    if join.method == "ASOF" and join.side not in {"", "LEFT"}:
        raise NotPartitionableError(f"a {join.side} ASOF JOIN needs all rows at once")
    kinds: dict[str, Kind] = {"": "inner", "LEFT": "left", "RIGHT": "right", "FULL": "full"}
    return kinds[join.side]


def _coalesce(left: Term, right: Term) -> Term:
    return exp.Coalesce(this=exp.Var(this=left), expressions=[exp.Var(this=right)]).sql("duckdb")
