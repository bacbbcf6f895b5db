"""Quoting of names and literals in SQL."""

from __future__ import annotations


def quoted(name: str) -> str:
    """Return an identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Return a string literal in single quotes."""
    return "'" + value.replace("'", "''") + "'"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Return identifiers in double quotes, separated by commas."""
    return ", ".join(quoted(name) for name in names)
