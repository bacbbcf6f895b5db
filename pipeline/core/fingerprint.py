"""Hashes of definitions: equal if the definitions compute the same rows, regardless of layout and comments."""

from __future__ import annotations

import ast
import datetime as dt
import decimal
import functools
import hashlib
import inspect
import re
import sys
import sysconfig
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

_PLAIN = (str, bytes, int, float, complex, bool, type(None), dt.date, dt.time, dt.timedelta, decimal.Decimal)
_INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_PARSE_ATTEMPTS = 100
_PARSING = threading.Lock()
_OURS = Path(__file__).parents[1]


def fingerprint(*parts: object) -> str:
    """Return 16 hexadecimal digits of SHA-256 over the parts' `repr`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def of_function(function: Callable[..., Any]) -> str:
    """Return a fingerprint of a function's code and of everything in the project that it uses.

    This includes its defaults, its closure, and, recursively, the functions, classes and constants that it names, also
    as attributes of modules. Installed packages, and objects of their types except plain values, are identified by name
    only. The same code has the same fingerprint in every process.
    """
    inner = inspect.unwrap(function)
    file = Path(inner.__code__.co_filename) if isinstance(inner, FunctionType) else None
    return fingerprint(_FunctionWalk(file, {}).canonical(function))


@dataclass(frozen=True)
class _FunctionWalk:
    """A traversal of everything that a function uses: the function's file, and the objects visited so far."""

    file: Path | None
    met: dict[int, object]

    def canonical(self, value: object) -> object:
        """Return a value as plain data with the same `repr` in every process."""
        if isinstance(value, Enum):
            return (type(value).__qualname__, value.name)
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, tuple | set | frozenset):
            return self._fixed(value)
        if id(value) in self.met:
            return "met"
        self.met[id(value)] = value  # keep a reference, so that the id is not reused
        if isinstance(value, Mapping | list):
            return self._fixed(value.items() if isinstance(value, Mapping) else value)
        return self._callable(value) if callable(value) else self._object(value)

    def _fixed(self, values: Iterable[object]) -> object:
        items = [self.canonical(value) for value in values]
        return sorted(map(repr, items)) if isinstance(values, set | frozenset) else (type(values).__name__, items)

    def _callable(self, value: Any) -> object:
        if isinstance(value, FunctionType):
            return self._function(value) if self._is_projects(value.__code__.co_filename) else _name(value)
        if isinstance(value, MethodType):
            return (self.canonical(value.__func__), self.canonical(value.__self__))
        if isinstance(value, functools.partial):
            return [self.canonical(part) for part in (value.func, value.args, value.keywords)]
        if isinstance(value, type):
            return self._class(value)
        if hasattr(value, "__wrapped__"):
            return self.canonical(value.__wrapped__)
        return _name(value) if hasattr(value, "__qualname__") else self._object(value)

    def _object(self, value: object) -> object:
        kind = type(value)
        if isinstance(value, re.Pattern):
            return (value.pattern, value.flags)
        if isinstance(value, PurePath):
            return str(value)
        if not self._is_projects(_file(kind)):
            return _name(kind)
        return (self.canonical(kind), self.canonical(getattr(value, "__dict__", {})))

    def _function(self, function: FunctionType) -> object:
        used = [(name, self.canonical(value)) for name, value in self._used(function)]
        return (_source(function.__code__), self.canonical((function.__defaults__, function.__kwdefaults__)), used)

    def _class(self, kind: type) -> object:
        if not self._is_projects(_file(kind)):
            return _name(kind)
        members = [v.fget if isinstance(v, property) else getattr(v, "__func__", v) for v in vars(kind).values()]
        functions = [self.canonical(member) for member in members if isinstance(member, FunctionType)]
        return (_name(kind), _class_source(kind), functions, [self.canonical(base) for base in kind.__bases__])

    def _used(self, function: FunctionType) -> Iterator[tuple[str, object]]:
        """Yield a function's closure and the globals it names; modules of the project are resolved to attributes."""
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # not assigned yet, for example a function that is being defined
                yield name, cell.cell_contents
        names = sorted(_names(function.__code__))
        for name in names:
            value = function.__globals__.get(name)
            if not isinstance(value, ModuleType):
                if name in function.__globals__:
                    yield name, value
            elif self._is_projects(getattr(value, "__file__", None)):
                yield from ((f"{name}.{n}", vars(value)[n]) for n in names if n in vars(value))

    def _is_projects(self, file: str | None) -> bool:
        """Return whether a file belongs to the project: neither installed nor part of Headwater, or next to the function."""
        if file is None:
            return False
        path = Path(file)
        elsewhere = any(path.is_relative_to(folder) for folder in (*_INSTALLED, _OURS))
        return not elsewhere or (self.file is not None and path.is_relative_to(_home(self.file)))


def _home(file: Path) -> Path:
    """Return the package folder of an installed project, or its file if it is a single module."""
    return file if file.parent in _INSTALLED else file.parent


def _file(kind: type) -> str | None:
    module = sys.modules.get(kind.__module__)
    return getattr(module, "__file__", None)


def _names(code: CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


@functools.lru_cache(maxsize=1024)
def _source(code: CodeType) -> str:
    """Return a function's syntax without layout, docstring and decorators; for a lambda, its bytecode."""
    tree = None if code.co_name == "<lambda>" else _parsed(code)
    if tree is None:
        return repr(_compiled(code))
    defined = tree.body[0]
    if isinstance(defined, ast.FunctionDef | ast.AsyncFunctionDef):
        defined.decorator_list = []
    return ast.dump(_without_docstrings(tree))


def _class_source(kind: type) -> str:
    tree = _parsed(kind)
    return "" if tree is None else ast.dump(_without_docstrings(tree))


def _parsed(value: CodeType | type) -> ast.Module | None:
    for _ in range(_PARSE_ATTEMPTS):
        try:
            with _PARSING:
                return ast.parse(textwrap.dedent(inspect.getsource(value)))
        except (OSError, TypeError, SyntaxError):  # defined at a prompt
            return None
        except SystemError:  # Python 3.11 confuses the recursion depths of two threads that parse at the same time
            continue
    raise RuntimeError(f"the source of {value!r} cannot be parsed")


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return tree


def _compiled(code: CodeType) -> object:
    """Return the bytecode of a lambda or a function without source; it may differ between Python versions."""
    constants = [
        _compiled(part) if isinstance(part, CodeType) else _FunctionWalk(None, {}).canonical(part)
        for part in code.co_consts
    ]
    return (code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants)
