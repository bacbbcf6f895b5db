"""Which rows of which inputs have to be together for a statement: co-partitioned execution, as a pure decision.

A statement that cannot run split by split may run bucket by bucket: some inputs are cut by a hash of key
expressions, so that rows of one key are in one bucket; every other input is given whole to each; the same text runs
on each bucket, and its answer is the union of theirs, ordered and limited once more where the statement says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp

from pipeline.core.refusal import Refusal
from pipeline.core.schema import Schema
from pipeline.kernel.aggregates.decomposition import has_groups, refusal
from pipeline.kernel.planner.canonical import common_type, expression_type, family_of, is_column
from pipeline.kernel.planner.distribution import NotPartitionableError
from pipeline.kernel.planner.order_and_limit import split_order_and_limit
from pipeline.kernel.planner.partitioning import PartitioningAnalysis
from pipeline.kernel.planner.strategy import splitting_obstacle
from pipeline.kernel.syntax.scope import Scope

BUCKETS = "_buckets"
_MOST_TRIES = 96
"""Assignments of keys that are looked at; a statement of many inputs has more of them."""

Keys = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Exchange:
    """How a statement runs bucket by bucket."""

    keys: Keys
    """For each input that is cut: expressions over its columns, in one order of positions and types for all."""
    statement: str
    """What runs on each bucket, over the inputs by their names."""
    finish: str | None
    """A SELECT over `_buckets`, the union of the buckets' answers, for order and limit; `None`: the union itself."""
    driving_may_split: bool
    """Whether a bucket's rows of the driving input may be cut further, each part with the bucket's other rows."""
    merges: bool
    """Whether groups cross buckets: the statement is taken apart, its states of all buckets are merged once."""
    reason: str


def bucket_of(expressions: Iterable[str], buckets: int) -> str:
    """Return the SQL of a row's bucket, 0 to `buckets` - 1, from its key expressions.

    The middle bits of the hash: the engine places rows within a bucket by its low and high ones.
    """
    return f"((hash({', '.join(expressions)}) >> 28) % {buckets})::integer"


def exchange(
    tree: exp.Query, schemas: Mapping[str, Schema], sizes: Mapping[str, int], broadcast_bytes: int
) -> Exchange | Refusal:
    """Return how a statement runs in buckets, or why it cannot.

    Inputs of `broadcast_bytes` or more are never given whole to every bucket; missing sizes count as large.
    """
    try:
        return _Search.of(tree, schemas, sizes, broadcast_bytes).exchange()
    except NotPartitionableError as why:
        return Refusal(str(why))


@dataclass(frozen=True)
class _Search:
    """The inputs of a statement, by their names in lower case, and what is asked of their keys."""

    tree: exp.Query
    scope: Scope
    schemas: Mapping[str, Schema]
    sizes: Mapping[str, int]
    names: Mapping[str, str]
    """The names of the inputs as the caller has them."""
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
        """Return the exchange of the fewest inputs, by as many keys as hold."""
        merged = (
            self.tree
            if isinstance(self.tree, exp.Select) and has_groups(self.tree) and not refusal(self.tree)
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
            raise NotPartitionableError(f"no key is common to {many}")
        raise NotPartitionableError(f"nothing in it brings rows of {many or 'its inputs'} together by a key")

    def _classes(self) -> list[dict[str, list[str]]]:
        """Return the sets of expressions that the statement has equal, as those of each input."""
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
        """Yield the assignments of one key to inputs: few inputs first, then those that leave few bytes whole."""
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
        """Return the keys with every other one that holds too: more of them spread the rows better."""
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
        """Return why a statement does not hold with its inputs cut by these keys."""
        try:
            share = PartitioningAnalysis(self.scope, self.schemas, keys, merged).query(self.tree, top=True).share
        except NotPartitionableError as why:
            return str(why)
        return "every bucket would have all of it" if share.is_replicated else None

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
        reason = f"{cut} in buckets by {by}" + (f", {replicated} whole to each" if replicated else "")
        return Exchange(self._in_one_type(keys), statement, finish, may_split, merged is not None, reason)

    def _walked(self, keys: Keys) -> PartitioningAnalysis:
        walk = PartitioningAnalysis(self.scope, self.schemas, keys)
        walk.query(self.tree, top=True)
        return walk

    def _in_one_type(self, keys: Keys) -> dict[str, tuple[str, ...]]:
        """Return the keys by the callers' names, each position in one type; an expression that fails is null."""
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
    """Return what rules out buckets wherever it stands."""
    if isinstance(node, exp.Collate):
        return f"{node.sql('duckdb')} compares by a collation"
    return splitting_obstacle(node, "bucket")
