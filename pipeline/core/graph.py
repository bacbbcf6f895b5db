"""The dependency graph of a project's definitions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pipeline.core.definitions import Artifact, Definition, Feed, SourceDefinition, StoredDefinition, Table
from pipeline.core.errors import DefinitionError, RequestError, did_you_mean
from pipeline.core.sinks import Sink

D = TypeVar("D", bound=Definition)


@dataclass(frozen=True)
class Graph:
    """Definitions in topological order: each comes after its inputs. Create one with `Graph.of`."""

    definitions: tuple[Definition, ...]

    @classmethod
    def of(cls, definitions: Iterable[Definition]) -> Graph:
        """Check the names of the definitions, and sort them topologically.

        Raises `DefinitionError` for a duplicate name, an input that is not defined or not a table, and a cycle.
        """
        by_name: dict[str, Definition] = {}
        folded: dict[str, Definition] = {}
        for definition in definitions:
            first = folded.setdefault(definition.name.lower(), definition)
            if first is not definition:
                alike = "" if first.name == definition.name else f" as {first.name!r} (names are case-insensitive)"
                raise DefinitionError(
                    f"{definition.name!r} is defined twice, first at {first.place}{alike}",
                    do="rename one",
                    place=definition.place,
                )
            by_name[definition.name] = definition
        for definition in by_name.values():
            _check_inputs(definition, by_name)
        return cls(tuple(_ordered(by_name)))

    def __getitem__(self, name: str) -> Definition:
        """Return a definition by name; raise `RequestError` if it does not exist."""
        definition = self._by_name.get(name)
        if definition is None:
            raise RequestError(f"{name!r} is not defined", do=did_you_mean(name, self.names))
        return definition

    @property
    def names(self) -> tuple[str, ...]:
        """All names in topological order."""
        return tuple(definition.name for definition in self.definitions)

    @cached_property
    def _by_name(self) -> dict[str, Definition]:
        return {definition.name: definition for definition in self.definitions}

    def all_of(self, kind: type[D]) -> tuple[D, ...]:
        """Return the definitions of a kind in topological order."""
        return tuple(definition for definition in self.definitions if isinstance(definition, kind))

    def upstream(self, name: str) -> frozenset[str]:
        """Return all direct and indirect inputs of `name`."""
        ancestors: set[str] = set()
        waiting = list(self[name].inputs)
        while waiting:
            above = waiting.pop()
            if above not in ancestors:
                ancestors.add(above)
                waiting.extend(self[above].inputs)
        return frozenset(ancestors)

    def downstream(self, name: str) -> frozenset[str]:
        """Return all definitions that read `name` directly or indirectly."""
        reached = {self[name].name}
        for definition in self.definitions:
            if not reached.isdisjoint(definition.inputs):
                reached.add(definition.name)
        return frozenset(reached - {name})

    def select(self, patterns: Iterable[str]) -> frozenset[str]:
        """Return the names selected by any pattern: `name`, `+name` (with its inputs), `name+` (with its readers).

        Without patterns, all names are selected. Raises `RequestError` for an invalid pattern or an unknown name.
        """
        picked = [self._picked(pattern) for pattern in patterns]
        return frozenset().union(*picked) if picked else frozenset(self.names)

    def _picked(self, pattern: str) -> frozenset[str]:
        parts = re.fullmatch(r"(\+?)([^+]+)(\+?)", pattern)
        if parts is None:
            raise RequestError("invalid selection", got=repr(pattern), do="use `name`, `+name`, `name+` or `+name+`")
        above, name, below = parts.groups()
        chosen = frozenset({self[name].name})
        if above:
            chosen |= self.upstream(name)
        if below:
            chosen |= self.downstream(name)
        return chosen

    def follows_a_stream(self, name: str) -> bool:
        """Return whether the chain of first inputs leads to a source that has an event time.

        Such a table is a stream, unless its statement cannot be streamed.
        """
        definition = self[name]
        if isinstance(definition, SourceDefinition):
            return definition.event_time is not None
        if not isinstance(definition, Table) or not definition.may_be_streamed:
            return False
        return self.follows_a_stream(definition.transform.inputs[0])


def _check_inputs(definition: Definition, by_name: dict[str, Definition]) -> None:
    for name in definition.inputs:
        upstream = by_name.get(name)
        if upstream is None:
            raise DefinitionError(
                f"{definition.kind} {definition.name!r} reads {name!r}, which is neither a table nor a source",
                do=did_you_mean(name, by_name),
                place=definition.place,
            )
        if isinstance(upstream, Feed):
            if upstream.event_time is None or isinstance(definition, Sink):  # streamed inputs are read row by row
                _check_feed(definition, name)
        elif name in definition.artifacts:
            if not isinstance(upstream, Artifact):
                problem = f"{definition.kind} {definition.name!r} uses {name!r}, which is not a model"
                raise DefinitionError(problem, got=f"a {upstream.kind}", do="name a model", place=definition.place)
        elif not isinstance(upstream, StoredDefinition):
            raise DefinitionError(
                f"{definition.kind} {definition.name!r} reads {name!r}, which is not a table",
                do="read a source or a table",
                place=definition.place,
            )


def _check_feed(definition: Definition, name: str) -> None:
    if isinstance(definition, Sink):
        raise DefinitionError(
            f"sink {definition.name!r} cannot send {name!r}: a source with stored=False has no versions",
            do="send a table that reads the source",
            place=definition.place,
        )
    first = definition.computed_by is not None and definition.computed_by.inputs[0] == name
    if not first or definition.is_dataset_function:
        raise DefinitionError(
            f"{definition.kind} {definition.name!r} must read {name!r}, a source with stored=False, split by split",
            do="make it the first input of a SELECT or of a function of blocks, or remove stored=False",
            place=definition.place,
        )


def _ordered(by_name: dict[str, Definition]) -> list[Definition]:
    """Return the definitions in topological order, otherwise in their given order."""
    ordered: dict[str, Definition] = {}
    for start, definition in by_name.items():
        path = {start: iter(definition.inputs)}  # the current path, with the remaining inputs of each node
        while path:
            name, inputs = next(reversed(path.items()))
            above = next((i for i in inputs if i not in ordered), None)
            if above is None:
                ordered[name] = by_name[name]
                path.popitem()
            elif above in path:
                raise _cycle([*path][[*path].index(above) :], by_name)
            else:
                path[above] = iter(by_name[above].inputs)
    return list(ordered.values())


def _cycle(names: list[str], by_name: dict[str, Definition]) -> DefinitionError:
    return DefinitionError(
        f"the definitions form a cycle: {' -> '.join([*names, names[0]])}",
        do="remove one of these inputs",
        place=by_name[names[0]].place,
    )
