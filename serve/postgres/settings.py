"""What a session can be asked and told besides SELECTs: its settings, and cursors."""

from __future__ import annotations

import re
from dataclasses import dataclass

from serve.postgres.catalog_tables import SETTINGS
from serve.postgres.errors import PostgresError
from serve.postgres.statements import Command, SessionFacts
from serve.queries.values import shown

_KNOWN = {name.lower(): name for name in SETTINGS}
_FIXED = {
    "client_encoding": ("utf8", "unicode", "'utf8'"),
    "datestyle": ("iso",),
    "intervalstyle": ("postgres",),
    "bytea_output": ("hex",),
}
"""Settings that have these values only; others change nothing, but are shown as they were set."""
_NEVER = {
    "server_version",
    "server_version_num",
    "server_encoding",
    "timezone",
    "is_superuser",
    "in_hot_standby",
    "integer_datetimes",
}
_NAME = r'("(?:[^"]|"")+"|[\w$]+)'
_DECLARE = re.compile(
    rf"\s*declare\s+{_NAME}\s+(?P<kind>[a-z\s]*?)cursor\s+(?P<hold>[a-z\s]*?)for\s+(?P<query>.*)",
    re.IGNORECASE | re.DOTALL,
)
_FETCH = re.compile(
    rf"\s*fetch\s+(?P<many>(?:next|forward|all|\d+|\s)*?)(?:\s*(?:from|in)\s+|(?<=\s)){_NAME}\s*", re.IGNORECASE
)
_CLOSE = re.compile(rf"\s*close\s+{_NAME}\s*", re.IGNORECASE)


@dataclass(frozen=True)
class CursorCommand:
    """`DECLARE`, `FETCH` or `CLOSE`, the cursor, and what it is declared for or how many rows are read: 0 is all."""

    action: str
    name: str
    query: str = ""
    rows: int = 0
    is_held: bool = False


class PostgresSettings:
    """The settings of a session."""

    def __init__(self, facts: SessionFacts) -> None:
        """Begin with those of the server."""
        self.facts = facts
        self._values = dict(SETTINGS)

    def reported(self) -> dict[str, str]:
        """Return those that drivers are told of when they connect."""
        names = ("server_version", "server_encoding", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "integer_datetimes",
                 "standard_conforming_strings", "is_superuser", "default_transaction_read_only", "in_hot_standby", "application_name")  # fmt: skip
        return {name: self._values[name] for name in names} | {"session_authorization": self.facts.user}

    def set(self, name: str, value: str) -> None:
        """Change a setting; raise `PostgresError` for a value that it cannot have. Times are always shown in UTC."""
        lowered = name.lower()
        if lowered not in _KNOWN:
            raise PostgresError("42704", f"there is no setting {shown(name[:100])}")
        allowed = _FIXED.get(lowered)
        if allowed is not None and not value.lower().replace("-", "").startswith(allowed):
            raise PostgresError(
                "22023", f"{_KNOWN[lowered]} is always {SETTINGS[_KNOWN[lowered]]}", got=shown(value[:100])
            )
        if allowed is None and lowered not in _NEVER:
            self._values[_KNOWN[lowered]] = value[:200]

    def named(self, command: Command) -> tuple[str, str]:
        """Return the name and the value of what `SHOW` asks for; raise `PostgresError` if there is none."""
        words = [word.lower() for word in command.words[1:]]
        name = {("transaction", "isolation", "level"): "transaction_isolation", ("time", "zone"): "timezone"}.get(
            tuple(words), "".join(words)
        )
        if name not in _KNOWN:
            raise PostgresError("42704", f"there is no setting {shown(name[:100])}")
        return _KNOWN[name].lower(), self._values[_KNOWN[name]]

    def change(self, command: Command) -> str:
        """Do what `SET` or `RESET` says, and return its tag."""
        words = [word for word in command.words[1:] if word not in {"SESSION", "LOCAL"}]
        if command.words[0] == "RESET":
            self._values = dict(SETTINGS)
            return "RESET"
        if words[:1] in (["TRANSACTION"], ["CHARACTERISTICS"]) or words[:2] == ["TIME", "ZONE"]:
            return "SET"
        if words[:1] == ["NAMES"]:
            self.set("client_encoding", "".join(words[1:]))
            return "SET"
        if len(words) < 3 or words[1] not in {"=", "TO"}:  # noqa: PLR2004 - a name, TO and a value
            raise PostgresError(
                "42601", "SET cannot be read", got=shown(command.text[:100]), do="write SET name = value"
            )
        self.set(words[0], " ".join(word.strip("'\"") for word in words[2:]).replace(" , ", ", "))
        return "SET"


def cursor_command(command: Command) -> CursorCommand | None:
    """Return what a command says about a cursor, or `None` if it says nothing; raise `PostgresError` if it cannot be read."""
    action = command.words[0]
    if action == "DECLARE":
        found = _DECLARE.fullmatch(command.text)
        if found is not None and "binary" not in found["kind"].lower():
            held = "with hold" in " ".join(found["hold"].lower().split())
            return CursorCommand(action, _plain(found[1]), found["query"], is_held=held)
    elif action == "FETCH":
        found = _FETCH.fullmatch(command.text)
        if found is not None:
            many = found["many"].lower().split()
            number = next((word for word in many if word.isdecimal()), None)
            rows = 0 if "all" in many else 1 if number is None else int(number[:18]) or -1
            return CursorCommand(action, _plain(found[2]), rows=rows)
    elif action == "CLOSE":
        found = _CLOSE.fullmatch(command.text)
        if found is not None:
            name = _plain(found[1])
            return CursorCommand(action, "" if name == "all" else name)
    else:
        return None
    raise PostgresError("0A000", f"this {action} is not supported", do="read forward: FETCH 100 FROM name")


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
