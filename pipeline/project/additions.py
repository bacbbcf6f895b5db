"""Adds a definition to the code of a project. Nothing that is there is changed, except the line of imports."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import HeadwaterError, RequestError, StorageError
from pipeline.core.settings import Settings
from pipeline.project.project import Project, load


def add_definition(settings: Settings, name: str, functions: Sequence[str], text: str) -> Path:
    """Add a definition to a project and return the file: a new one in a package, otherwise the end of the definitions.

    `functions` are the names of the package `pipeline` that it uses. Raises `RequestError` if the project has the name or
    the file, and the error of loading the project if it cannot be loaded with it; then the project is as it was.
    """
    project = _existing(settings)
    if project is not None and name in project.graph.names:
        raise RequestError(f"the project already defines {name!r}", do="choose another name: --name")
    path = settings.definitions / f"{name}.py" if settings.definitions.is_dir() else settings.definitions
    if path.exists() and settings.definitions.is_dir():
        raise RequestError(f"the file {path.name} already exists", got=str(path), do="choose another name: --name")
    try:
        before = path.read_bytes() if path.exists() else None
        _write(path, _with_definition("" if before is None else before.decode(), functions, text))
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot write {path}", got=str(error)) from error
    try:
        load(settings.root, env=settings.env)
    except HeadwaterError:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
        raise
    return path


def _existing(settings: Settings) -> Project | None:
    """Return the project; `None` if it has no definitions yet."""
    try:
        return load(settings.root, env=settings.env)
    except HeadwaterError as error:
        if error.problem == "the project has no definitions":
            return None
        raise


def _with_definition(code: str, functions: Sequence[str], text: str) -> str:
    """Return a module's code with a definition at its end, and an import of the functions that it does not import yet."""
    tree = ast.parse(code)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = [node for node in imports if isinstance(node, ast.ImportFrom) and node.module == "pipeline"]
    known = {alias.name for node in ours for alias in node.names if alias.asname is None}
    missing = sorted(set(functions) - known)
    lines = code.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if missing:
        at = imports[-1].end_lineno or 0 if imports else _after_docstring(tree)
        lines.insert(at, f"from pipeline import {', '.join(missing)}\n")
    return "".join(lines) + ("\n\n" if lines else "") + text


def _after_docstring(tree: ast.Module) -> int:
    return (tree.body[0].end_lineno or 0) if ast.get_docstring(tree) is not None else 0


def _write(path: Path, code: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(code, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
