"""Names and literals as text of a statement."""

from __future__ import annotations


def quoted(name: str) -> str:
    """Return an identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Return a text literal in single quotes."""
    return "'" + value.replace("'", "''") + "'"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Return identifiers in double quotes, with commas between."""
    return ", ".join(quoted(name) for name in names)
