"""Co-partitioned execution of a statement in buckets, as a pure decision.

A statement that cannot run split by split may run bucket by bucket. Some inputs are partitioned by a hash of key
expressions, so that rows with equal keys are in one bucket; the other inputs are replicated to every bucket. The statement
runs on each bucket, and its result is the union of their results; ORDER BY and LIMIT are applied again to the union.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp

from pipeline.core.refusal import Refusal
from pipeline.core.schema import Schema
from pipeline.kernel.aggregates.decomposition import decomposition_obstacle, has_groups
from pipeline.kernel.planner.canonical import common_type, expression_type, family_of, is_column
from pipeline.kernel.planner.distribution import NotPartitionableError
from pipeline.kernel.planner.order_and_limit import split_order_and_limit
from pipeline.kernel.planner.partitioning import PartitioningAnalysis
from pipeline.kernel.planner.strategy import splitting_obstacle
from pipeline.kernel.syntax.scope import Scope

BUCKETS = "_buckets"
_MOST_TRIES = 96
"""The maximum number of key assignments to try."""

Keys = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Exchange:
    """The execution of a statement in buckets."""

    keys: Keys
    """The key expressions of each partitioned input, with the same positions and types for all inputs."""
    statement: str
    """The statement to run on each bucket."""
    finish: str | None
    """A SELECT that orders and limits `_buckets`, the union of the buckets' results; `None` if it is not required."""
    driving_may_split: bool
    """Whether a bucket's rows of the driving input may be split further, each part with the bucket's other rows."""
    merges: bool
    """Whether groups span buckets, so that the statement is decomposed and the states of all buckets are merged."""
    reason: str


def exchange(
    tree: exp.Query, schemas: Mapping[str, Schema], sizes: Mapping[str, int], broadcast_bytes: int
) -> Exchange | Refusal:
    """Return how a statement runs in buckets, or why it cannot.

    Inputs of at least `broadcast_bytes` are never replicated; inputs of unknown size count as large.
    """
    try:
        return _Search.of(tree, schemas, sizes, broadcast_bytes).exchange()
    except NotPartitionableError as why:
        return Refusal(str(why))


@dataclass(frozen=True)
class _Search:
    """The search for the keys of a statement. Inputs are identified by their names in lower case."""

    tree: exp.Query
    scope: Scope
    schemas: Mapping[str, Schema]
    sizes: Mapping[str, int]
    names: Mapping[str, str]
    """The original names of the inputs."""
    large: frozenset[str]

    @classmethod
    def of(
        cls, tree: exp.Query, schemas: Mapping[str, Schema], sizes: Mapping[str, int], broadcast_bytes: int
    ) -> _Search:
        if (
            why := next((obstacle for node in tree.walk() if (obstacle := _bucketing_obstacle(node)) is not None), None)
        ) is not None:
            raise NotPartitionableError(why)
        scope = Scope.of(tree)
        known = {name.lower(): name for name in schemas}
        bytes_of = {name.lower(): size for name, size in sizes.items()}
        inputs = [name.lower() for name in scope.inputs]
        unknown = next((name for name in inputs if name not in known), None)
        if unknown is not None:
            raise NotPartitionableError(f"the columns of {unknown!r} are not known")
        large = frozenset(name for name in inputs if bytes_of.get(name, broadcast_bytes) >= broadcast_bytes)
        by_name = {name: schemas[known[name]] for name in inputs}
        return cls(tree, scope, by_name, bytes_of, {name: known[name] for name in inputs}, large)

    def exchange(self) -> Exchange:
        """Return the exchange that partitions the fewest inputs, by as many keys as possible."""
        merged = (
            self.tree
            if isinstance(self.tree, exp.Select) and has_groups(self.tree) and not decomposition_obstacle(self.tree)
            else None
        )
        classes = self._classes()
        whys: list[str] = []
        for select in (None, merged) if merged is not None else (None,):
            for keys in itertools.islice(self._single(classes), _MOST_TRIES):
                why = self._why_not(keys, select)
                if why is None:
                    return self._exchange(self._extended(keys, classes, select), select)
                whys.append(why)
        if whys:
            raise NotPartitionableError(whys[-1])
        many = ", ".join(repr(self.names[name]) for name in self.schemas if name in self.large)
        if len(self.large) > 1:
            raise NotPartitionableError(f"{many} have no common key")
        raise NotPartitionableError(f"no key partitions {many or 'its inputs'}")

    def _classes(self) -> list[dict[str, list[str]]]:
        """Return the sets of expressions that are equal in the statement, by input."""
        walk = PartitioningAnalysis(self.scope, self.schemas, {})
        walk.query(self.tree, top=True)
        equal_to: dict[tuple[str, str], set[tuple[str, str]]] = {}
        for terms in [*walk.links, *((term,) for term in walk.groups)]:
            origins = set[tuple[str, str]]().union(*(walk.terms.origins(term) for term in terms))
            together = origins.union(*(equal_to.get(origin, set()) for origin in origins))
            equal_to.update(dict.fromkeys(together, together))
        classes: list[dict[str, list[str]]] = []
        for together in {id(members): members for members in equal_to.values()}.values():
            by_input: dict[str, list[str]] = {}
            for name, expression in sorted(together):
                if self._type(name, expression) is not None:
                    by_input.setdefault(name, []).append(expression)
            classes.append(by_input)
        return classes

    def _single(self, classes: list[dict[str, list[str]]]) -> Iterator[dict[str, tuple[str, ...]]]:
        """Yield assignments of one key to inputs, by the number of inputs, then by the bytes to replicate."""
        tries: list[tuple[tuple[int, int], dict[str, tuple[str, ...]]]] = []
        for members in classes:
            if not members or not self.large <= members.keys():
                continue
            small = sorted(members.keys() - self.large)
            for count in range(len(small) + 1):
                for more in itertools.combinations(small, count):
                    cut = [*sorted(self.large), *more]
                    rest = sum(self.sizes.get(name, 0) for name in self.schemas if name not in cut)
                    choices = itertools.product(*(members[name] for name in cut))
                    tries += [
                        ((len(cut), rest), {name: (e,) for name, e in zip(cut, chosen, strict=True)})
                        for chosen in itertools.islice(choices, _MOST_TRIES)
                        if cut
                    ]
        yield from (keys for _, keys in sorted(tries, key=lambda attempt: attempt[0]))

    def _extended(
        self, keys: dict[str, tuple[str, ...]], classes: list[dict[str, list[str]]], merged: exp.Expr | None
    ) -> dict[str, tuple[str, ...]]:
        """Return the keys extended by all other possible keys, which distribute the rows more evenly."""
        left = _MOST_TRIES
        for members in classes:
            if not keys.keys() <= members.keys():
                continue
            for chosen in itertools.product(*(members[name] for name in keys)):
                if left == 0 or any(e in keys[name] for name, e in zip(keys, chosen, strict=True)):
                    continue
                left -= 1
                longer = {name: (*keys[name], e) for name, e in zip(keys, chosen, strict=True)}
                if self._why_not(longer, merged) is None:
                    keys = longer
        return keys

    def _why_not(self, keys: Mapping[str, tuple[str | None, ...]], merged: exp.Expr | None) -> str | None:
        """Return why the statement cannot run with its inputs partitioned by these keys."""
        try:
            share = PartitioningAnalysis(self.scope, self.schemas, keys, merged).query(self.tree, top=True).share
        except NotPartitionableError as why:
            return str(why)
        return "every bucket would compute all rows" if share.is_replicated else None

    def _exchange(self, keys: dict[str, tuple[str, ...]], merged: exp.Expr | None) -> Exchange:
        statement, finish = (self.tree.sql("duckdb", comments=False), None)
        if merged is None:
            statement, finish = split_order_and_limit(self.tree, self._walked(keys), BUCKETS)
        driving = None if self.scope.driving is None else self.scope.driving.lower()
        may_split = driving in keys and self._why_not({driving: (None,)}, merged) is None
        cut = " and ".join(repr(self.names[name]) for name in keys)
        replicated = ", ".join(repr(self.names[name]) for name in self.schemas if name not in keys)
        first = next(iter(keys))
        by = ", ".join(keys[first])
        reason = f"{cut} in buckets by {by}" + (f", {replicated} replicated to each" if replicated else "")
        return Exchange(self._in_one_type(keys), statement, finish, may_split, merged is not None, reason)

    def _walked(self, keys: Keys) -> PartitioningAnalysis:
        walk = PartitioningAnalysis(self.scope, self.schemas, keys)
        walk.query(self.tree, top=True)
        return walk

    def _in_one_type(self, keys: Keys) -> dict[str, tuple[str, ...]]:
        """Return the keys by original name, with one type per position; an expression that fails is null."""
        positions = range(len(next(iter(keys.values()))))
        common = [common_type([str(self._type(name, es[i])) for name, es in keys.items()]) for i in positions]
        return {
            self.names[name]: tuple(
                (e if is_column(e) else f"try({e})") + (f"::{kind}" if kind else "")
                for e, kind in zip(es, common, strict=True)
            )
            for name, es in keys.items()
        }

    def _type(self, name: str, expression: str) -> str | None:
        columns = tuple((f'"{c.name.lower()}"', c.type) for c in self.schemas[name].columns)
        kind = expression_type(expression, columns)
        return kind if family_of(kind) is not None else None


def _bucketing_obstacle(node: exp.Expr) -> str | None:
    """Return why a node rules out execution in buckets, wherever it occurs."""
    if isinstance(node, exp.Collate):
        return f"{node.sql('duckdb')} compares by a collation"
    return splitting_obstacle(node, "bucket")
