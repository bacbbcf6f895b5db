"""A project: definitions in a Python file or package, and one environment of its settings."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import cloudpickle

from pipeline.connectors.kafka.quotas import QuotaDefinition
from pipeline.connectors.kafka.topics import TopicDefinition
from pipeline.core import scratch
from pipeline.core.as_of import AsOf, At
from pipeline.core.definitions import (
    ChecksInputs,
    Definition,
    DependsOnDefinitions,
    SourceDefinition,
    StoredDefinition,
    Table,
)
from pipeline.core.disk_cache import use_cache
from pipeline.core.errors import DefinitionError, HeadwaterError, Place, RequestError, SettingsError
from pipeline.core.graph import Graph
from pipeline.core.lake_policy import LakePolicy, PolicyDefinition, policy_of, require_tables
from pipeline.core.schema import Schema
from pipeline.core.settings import Settings, find
from pipeline.core.settings import load as load_settings
from pipeline.core.snowflake_account import DeclaredAccount, SnowflakeDeclaration, declared_account
from pipeline.core.sources import InProject
from pipeline.governance.access_policies import AccessPolicy, require_known_tables
from pipeline.kernel.types import require_types
from pipeline.warehouse.modelling.metrics import MetricDefinition, resolved
from pipeline.warehouse.warehouse import LEDGER

if TYPE_CHECKING:
    import ray.data

K = TypeVar("K", TopicDefinition, QuotaDefinition)
V = TypeVar("V")


@dataclass(frozen=True)
class Project:
    """The definitions in topological order, and the settings."""

    settings: Settings
    graph: Graph
    topics: tuple[TopicDefinition, ...] = ()
    """The topics that are declared beside the definitions, by name."""
    quotas: tuple[QuotaDefinition, ...] = ()
    """The quotas of Kafka's clients that are declared, by name."""
    policies: tuple[PolicyDefinition, ...] = ()
    """The policies of lake tables that are declared, in the order of the definitions."""
    account: DeclaredAccount = field(default_factory=DeclaredAccount)
    """What is declared of the account of a Snowflake warehouse."""
    access: tuple[AccessPolicy, ...] = ()
    """Who may read what through endpoints, in the order of the definitions."""
    metrics: tuple[MetricDefinition, ...] = ()
    """The metrics that are declared beside the definitions, by name."""

    def policy(self, definition: StoredDefinition) -> LakePolicy:
        """Return how the table of a definition is kept in the lake."""
        return policy_of(self.policies, definition)

    def dataset(
        self,
        name: str,
        *,
        version: int | None = None,
        at: At | None = None,
        columns: Sequence[str] | None = None,
        where: str | None = None,
    ) -> ray.data.Dataset:
        """Return the rows of a table as a Ray dataset, in its newest version, a given one, or the one of a time (`at`).

        The version is determined now, also if the dataset is read later, so every read returns the same rows until that
        version is vacuumed. Rows are read by tasks of the cluster in `RAY_ADDRESS`, otherwise of a local one, and not by this
        process; they are in the order of the table's files, with the columns of that version. `columns` and `where`, a SQL
        condition, limit what is read, as do `select_columns` and `filter(expr=...)` of the dataset: other columns are not
        read, and files without matching rows are not opened.

        Raises `RequestError` for an unknown table, version, time or column, and for an invalid condition; `StorageError` if the
        table does not exist yet, or if the version is no longer available.
        """
        from pipeline.project.datasets import dataset_of  # noqa: PLC0415 - importing the lake takes a second
        from pipeline.project.workspace import Workspace  # noqa: PLC0415 - likewise

        if version is not None and at is not None:
            raise RequestError(f"both version= and at= of table {name!r} are given", do="give one")
        return dataset_of(Workspace(self), name, version if at is None else AsOf.of(at), columns, where)


def load(start: Path | str = ".", *, env: str | None = None, environ: Mapping[str, str] | None = None) -> Project:
    """Load the project in a folder or its parent folders.

    Raises `SettingsError` for invalid settings, and `DefinitionError` if the code cannot be imported or the definitions are
    inconsistent. No data is read.
    """
    settings = load_settings(find(Path(start)), env=env, environ=environ)
    scratch.work_for(settings.state / "tmp", settings.spill_bytes)
    use_cache(settings.state / "cache", settings.cache_bytes)
    modules = _modules(settings.definitions)
    declared = definitions_in(modules)
    graph = Graph.of([_within(definition, settings.root) for definition in declared])
    if not graph.definitions:
        raise DefinitionError(
            "the project has no definitions", do="assign a source(…) to a name", place=Place(str(settings.definitions))
        )
    graph = Graph(tuple(_over_inputs(definition, graph) for definition in graph.definitions))
    _require_free_names(graph)
    for definition in graph.definitions:
        checked: tuple[object, ...] = (definition, definition.computed_by)
        for each in checked:
            if isinstance(each, ChecksInputs):
                each.check_inputs({name: graph[name] for name in definition.inputs}, definition.place)
    policies = tuple(_values_of(modules, PolicyDefinition))
    require_tables(policies, graph)
    topics, quotas = _declared_in(modules, TopicDefinition), _declared_in(modules, QuotaDefinition)
    account = declared_account(_values_of(modules, SnowflakeDeclaration), graph)
    access = tuple(_access_policies(modules))
    require_known_tables(access, graph)
    metrics = resolved(_values_of(modules, MetricDefinition), graph)
    return Project(settings, graph, topics, quotas, policies, account, access, metrics)


def _access_policies(modules: Iterable[ModuleType]) -> Iterator[AccessPolicy]:
    """Yield the access policies that are assigned to names in modules, each once, with its first name."""
    seen: set[int] = set()
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, AccessPolicy) and id(value) not in seen:
                seen.add(id(value))
                yield replace(value, name=name)


def _require_free_names(graph: Graph) -> None:
    """Raise `DefinitionError` for a gold table with the name of the warehouse's ledger, which loads would overwrite."""
    for definition in graph.all_of(StoredDefinition):
        if definition.is_in_warehouse and definition.name.lower() == LEDGER:
            raise DefinitionError(
                f"a gold table cannot be named {definition.name!r}: Headwater records there what it has loaded",
                do="rename it",
                place=definition.place,
            )


def _within(definition: Definition, folder: Path) -> Definition:
    """Return a source with validated types and paths resolved against the project's folder; others are unchanged."""
    if not isinstance(definition, SourceDefinition):
        return definition
    require_types(definition.schema or Schema(()), definition.place)
    reader = definition.reader
    return replace(definition, reader=reader.within(folder)) if isinstance(reader, InProject) else definition


def _over_inputs(definition: Definition, graph: Graph) -> Definition:
    """Return a table whose transform depends on the definitions of its inputs with this transform; others unchanged."""
    if not isinstance(definition, Table) or not isinstance(definition.transform, DependsOnDefinitions):
        return definition
    inputs = {name: graph[name] for name in definition.inputs}
    return replace(definition, transform=definition.transform.over(inputs))


def definitions_in(modules: Iterable[ModuleType]) -> list[Definition]:
    """Return the definitions that are assigned to names in modules, each once, named after its first name.

    Each comes after those that belong to it.
    """
    by_id: dict[int, Definition] = {}
    for module in modules:
        names: dict[int, str] = {}
        for name, value in vars(module).items():
            if not isinstance(value, Definition):
                continue
            if names.setdefault(id(value), name) != name and not value.name:
                raise DefinitionError(
                    f"one definition has two names, {names[id(value)]!r} and {name!r}",
                    do="give each name its own definition",
                    place=value.place,
                )
            by_id.setdefault(id(value), value.named(name))
    return [each for definition in by_id.values() for each in (*definition.companions, definition)]


def _declared_in(modules: Iterable[ModuleType], kind: type[K]) -> tuple[K, ...]:
    """Return the topics or quotas that are assigned to names in modules.

    Raises `DefinitionError` if one is declared twice.
    """
    found: dict[tuple[str, str | None], K] = {}
    for value in _values_of(modules, kind):
        first = found.setdefault((value.name, value.servers), value)
        if first is not value:
            problem = f"{value.title} is declared twice, first at {first.place}"
            raise DefinitionError(problem, do="remove one", place=value.place)
    return tuple(sorted(found.values(), key=lambda each: each.name))


def _values_of(modules: Iterable[ModuleType], kind: type[V]) -> list[V]:
    """Return the values of a type that are assigned to names in modules, each once."""
    values = (value for module in modules for value in vars(module).values() if isinstance(value, kind))
    return list({id(value): value for value in values}.values())


def _require_no_hiding(folder: Path, name: str) -> None:
    """Raise `SettingsError` if a module of the project would hide one of Headwater or Python."""
    if folder.resolve() == Path(__file__).resolve().parents[2]:
        return
    whose = dict.fromkeys(("pipeline", "ml", "serve", "cluster"), "Headwater")
    if name in sys.stdlib_module_names:
        whose[name] = "Python"
    for module, owner in whose.items():
        for file in (folder / f"{module}.py", folder / module / "__init__.py"):
            if file.is_file():
                raise SettingsError(
                    f"a project cannot have a module named {module!r}, because it hides {owner}'s module",
                    got=str(file),
                    do="rename it, also in `definitions` of headwater.toml",
                )


def _modules(path: Path) -> list[ModuleType]:
    package = path.is_dir()
    file = path / "__init__.py" if package else path
    if not file.is_file():
        raise SettingsError("the definitions do not exist", got=str(file), do="check `definitions` in headwater.toml")
    name = path.name if package else path.stem
    folder = path.parent
    _require_no_hiding(folder, name)
    for known in [*_own_modules(folder), *(n for n in [*sys.modules] if n == name or n.startswith(f"{name}."))]:
        sys.modules.pop(known, None)
    spec = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=[str(path)] if package else None
    )
    if spec is None or spec.loader is None:
        raise SettingsError("the definitions are not a Python file or package", got=str(path))
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _Importing(file):
        spec.loader.exec_module(module)
        parts = [info.name for info in pkgutil.walk_packages([str(path)], f"{name}.")] if package else []
        modules = [module, *(importlib.import_module(part) for part in parts)]
    for own_module in _own_modules(folder):
        cloudpickle.register_pickle_by_value(sys.modules[own_module])  # workers cannot import the user's modules
    return modules


def _own_modules(folder: Path) -> list[str]:
    """Return the names of the imported modules of the project, which are in the folder of the definitions.

    Without `__main__`, a script there that loads the project: it stays imported, and is always pickled by value.
    """
    names, within = [], f"{folder}{os.sep}"
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if (
            name == "__main__" or file is None or not file.startswith(within)
        ):  # a string comparison, because there are thousands of modules
            continue
        if not any(part == "site-packages" or part.startswith(".") for part in Path(file).relative_to(folder).parts):
            names.append(name)
    return names


class _Importing:
    """Translates errors while a project's code is imported to a `DefinitionError` with their place.

    No bytecode is written, because Python does not detect a change within a second that keeps the file's size.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._keeps_none = sys.dont_write_bytecode

    def __enter__(self) -> None:
        sys.dont_write_bytecode = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        sys.dont_write_bytecode = self._keeps_none
        if error is None or isinstance(error, HeadwaterError) or not isinstance(error, Exception | SystemExit):
            return
        if isinstance(error, SyntaxError):
            raise DefinitionError(
                "invalid Python syntax", got=error.msg, place=Place(error.filename or str(self._file), error.lineno)
            ) from error
        place, step = Place(str(self._file)), error.__traceback__
        while step is not None:
            file = step.tb_frame.f_code.co_filename
            if Path(file).is_relative_to(self._file.parent) and "site-packages" not in file:
                place = Place(file, step.tb_lineno)
            step = step.tb_next
        raise DefinitionError(
            f"the definitions cannot be imported: {type(error).__name__}", got=str(error), place=place
        ) from error
