"""A project: definitions in a Python file or package, and one environment of its settings."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import cloudpickle

from pipeline.core import scratch
from pipeline.core.definitions import Definition, SourceDefinition
from pipeline.core.errors import DefinitionError, HeadwaterError, Place, SettingsError
from pipeline.core.graph import Graph
from pipeline.core.schema import Schema
from pipeline.core.settings import Settings, find
from pipeline.core.settings import load as load_settings
from pipeline.core.sources import InProject
from pipeline.kernel.types import require_types

if TYPE_CHECKING:
    import ray.data


@dataclass(frozen=True)
class Project:
    """The definitions in topological order, and the settings."""

    settings: Settings
    graph: Graph

    def dataset(
        self,
        name: str,
        *,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        where: str | None = None,
    ) -> ray.data.Dataset:
        """Return the rows of a table as a Ray dataset, in its newest version or a given one.

        The version is determined now, also if the dataset is read later, so every read returns the same rows until that
        version is vacuumed. Rows are read by tasks of the cluster in `RAY_ADDRESS`, otherwise of a local one, and not by this
        process; they are in the order of the table's files, with the columns of that version. `columns` and `where`, a SQL
        condition, limit what is read, as do `select_columns` and `filter(expr=...)` of the dataset: other columns are not
        read, and files without matching rows are not opened.

        Raises `RequestError` for an unknown table, version or column, and for an invalid condition; `StorageError` if the
        table does not exist yet, or if the version is no longer available.
        """
        from pipeline.project.datasets import dataset_of  # noqa: PLC0415 - importing the lake takes a second
        from pipeline.project.workspace import Workspace  # noqa: PLC0415 - likewise

        return dataset_of(Workspace(self), name, version, columns, where)


def load(start: Path | str = ".", *, env: str | None = None, environ: Mapping[str, str] | None = None) -> Project:
    """Load the project in a folder or its parent folders.

    Raises `SettingsError` for invalid settings, and `DefinitionError` if the code cannot be imported or the definitions are
    inconsistent. No data is read.
    """
    settings = load_settings(find(Path(start)), env=env, environ=environ)
    scratch.work_for(settings.state / "tmp", settings.spill_bytes)
    modules = _modules(settings.definitions)
    graph = Graph.of([_within(definition, settings.root) for definition in definitions_in(modules)])
    if not graph.definitions:
        raise DefinitionError(
            "the project has no definitions", do="assign a source(…) to a name", place=Place(str(settings.definitions))
        )
    return Project(settings, graph)


def _within(definition: Definition, folder: Path) -> Definition:
    """Return a source with validated types and paths resolved against the project's folder; others are unchanged."""
    if not isinstance(definition, SourceDefinition):
        return definition
    require_types(definition.schema or Schema(()), definition.place)
    reader = definition.reader
    return replace(definition, reader=reader.within(folder)) if isinstance(reader, InProject) else definition


def definitions_in(modules: Iterable[ModuleType]) -> list[Definition]:
    """Return the definitions that are assigned to names in modules, each once, named after its first name."""
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
    return list(by_id.values())


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
    for known in [*_own_modules(folder), *(n for n in sys.modules if n == name or n.startswith(f"{name}."))]:
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
