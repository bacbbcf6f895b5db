"""The order of a project's definitions, found from their inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.core.definitions import Definition, Stored
from pipeline.core.errors import DefinitionError, RequestError, did_you_mean


@dataclass(frozen=True)
class Graph:
    """Definitions in an order in which each comes after its inputs. Make one with `Graph.of`."""

    definitions: tuple[Definition, ...]

    @classmethod
    def of(cls, definitions: Iterable[Definition]) -> Graph:
        """Check the names and order the definitions.

        Raises `DefinitionError` for a name used twice, an input that is not defined, an input that is not a
        table, or a cycle.
        """
        by_name: dict[str, Definition] = {}
        for definition in definitions:
            first = by_name.setdefault(definition.name, definition)
            if first is not definition:
                raise DefinitionError(
                    f"{definition.name!r} is defined twice, first at {first.place}",
                    do="rename one",
                    place=definition.place,
                )
        for definition in by_name.values():
            _check_inputs(definition, by_name)
        return cls(tuple(_ordered(by_name)))

    def __getitem__(self, name: str) -> Definition:
        """Return a definition by name; raise `RequestError` when there is none."""
        for definition in self.definitions:
            if definition.name == name:
                return definition
        raise RequestError(f"{name!r} is not defined", do=did_you_mean(name, self.names))

    @property
    def names(self) -> tuple[str, ...]:
        """All names, inputs before what reads them."""
        return tuple(definition.name for definition in self.definitions)

    def upstream(self, name: str) -> frozenset[str]:
        """Return every definition that `name` depends on, at any distance."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            for above in self[waiting.pop()].inputs:
                if above not in found:
                    found.add(above)
                    waiting.append(above)
        return frozenset(found)

    def downstream(self, name: str) -> frozenset[str]:
        """Return every definition that depends on `name`, at any distance."""
        return frozenset(d.name for d in self.definitions if name in self.upstream(d.name))

    def select(self, patterns: Iterable[str]) -> frozenset[str]:
        """Return the names that any pattern picks: `name`, `+name` (and its inputs), `name+` (and its readers).

        Without patterns, all names.
        """
        chosen: set[str] = set()
        given = False
        for pattern in patterns:
            given = True
            name = pattern.strip("+")
            chosen.add(self[name].name)
            if pattern.startswith("+"):
                chosen |= self.upstream(name)
            if pattern.endswith("+"):
                chosen |= self.downstream(name)
        return frozenset(chosen) if given else frozenset(self.names)


def _check_inputs(definition: Definition, by_name: dict[str, Definition]) -> None:
    kind = getattr(definition, "kind", "definition")
    for name in definition.inputs:
        found = by_name.get(name)
        if found is None:
            raise DefinitionError(
                f"{kind} {definition.name!r} reads {name!r}, which is neither a table nor a source",
                do=did_you_mean(name, by_name),
                place=definition.place,
            )
        if not isinstance(found, Stored):
            raise DefinitionError(
                f"{kind} {definition.name!r} reads {name!r}, which is not a table",
                do="read a source or a table",
                place=definition.place,
            )


def _ordered(by_name: dict[str, Definition]) -> list[Definition]:
    done: dict[str, Definition] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise DefinitionError(
                f"definitions read each other in a circle: {circle}",
                do="take one of these inputs away",
                place=by_name[name].place,
            )
        path.append(name)
        for above in by_name[name].inputs:
            visit(above)
        path.pop()
        done[name] = by_name[name]

    for name in by_name:
        visit(name)
    return list(done.values())
