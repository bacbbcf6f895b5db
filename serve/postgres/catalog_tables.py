"""What PostgreSQL's catalog has: its tables and functions, which `catalog.sql` defines, and the settings of a session."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

PREFIX = "catalog_"
"""How the names of the catalog's functions begin in the engine."""
VERSION = "16.4"
"""The version of PostgreSQL whose catalog this is."""
DEFINITIONS = (Path(__file__).parent / "catalog.sql").read_text(encoding="utf-8")
TABLES = frozenset(re.findall(r"^create table (\w+)", DEFINITIONS, re.MULTILINE))
"""The tables, by their names in the engine: those of information_schema begin with its name."""
FUNCTIONS = frozenset(re.findall(rf"^create macro {PREFIX}(\w+)", DEFINITIONS, re.MULTILINE))
"""The functions, without the prefix."""
SETTINGS: Mapping[str, str] = {
    "server_version": VERSION, "server_version_num": "160004", "server_encoding": "UTF8", "client_encoding": "UTF8", "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres", "TimeZone": "UTC", "integer_datetimes": "on", "standard_conforming_strings": "on", "is_superuser": "off",
    "default_transaction_read_only": "on", "in_hot_standby": "off", "transaction_isolation": "read committed", "transaction_read_only": "on",
    "default_transaction_isolation": "read committed", "max_identifier_length": "63", "search_path": "public", "bytea_output": "hex", "extra_float_digits": "1",
    "statement_timeout": "0", "lc_collate": "C", "lc_ctype": "C", "max_index_keys": "32", "application_name": "", "client_min_messages": "notice",
    "row_security": "on", "synchronize_seqscans": "on", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0", "backslash_quote": "safe_encoding",
    "escape_string_warning": "on", "jit": "off", "geqo": "on", "enable_seqscan": "on", "cursor_tuple_fraction": "0.1",
}  # fmt: skip
"""The settings that can be shown, as they are at first."""


def catalog_table(schema: str, name: str) -> str | None:
    """Return the name in the engine of a table of the catalog, or `None` if there is none."""
    lowered = name.lower()
    if schema.lower() == "information_schema":
        lowered = f"information_schema_{lowered}"
    elif schema.lower() not in {"", "pg_catalog"} or not lowered.startswith("pg_"):
        return None
    return lowered if lowered in TABLES else None
