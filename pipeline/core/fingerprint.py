"""Hashes of definitions: equal when they compute the same rows, whatever their layout and comments."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any


def fingerprint(*parts: object) -> str:
    """Return 16 hexadecimal digits of SHA-256 over the parts' `repr`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def of_function(function: Callable[..., Any]) -> str:
    """Return a fingerprint of a function's code and of the project's functions and constants that it names."""
    return fingerprint(*_parts(function, seen=set()))


def _parts(function: Callable[..., Any], seen: set[object]) -> list[object]:
    function = inspect.unwrap(function)
    if not isinstance(function, FunctionType):
        return [repr(function)]
    seen.add(function)
    parts: list[object] = [_code(function), function.__defaults__]
    package = function.__module__.partition(".")[0]
    for name in _names(function):
        value = function.__globals__.get(name)
        if isinstance(value, str | int | float | bool | tuple | frozenset):
            parts.append((name, value))
        elif isinstance(value, FunctionType) and value not in seen and value.__module__.startswith(package):
            parts.extend(_parts(value, seen))
    return parts


def _names(function: FunctionType) -> list[str]:
    names: set[str] = set()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes.extend(constant for constant in code.co_consts if isinstance(constant, type(code)))
    return sorted(names)


@functools.lru_cache(maxsize=1024)
def _code(function: FunctionType) -> str:
    try:
        source = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(source)
    except (OSError, SyntaxError):  # made at a prompt, or a lambda inside an expression
        return function.__code__.co_code.hex() + repr(function.__code__.co_consts)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.decorator_list = []
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:]
    return ast.dump(tree)
