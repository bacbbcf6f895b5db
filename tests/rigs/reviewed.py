"""Golden files of SQL that no emulator runs: a person reviews each change of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest


def reviewed(file: Path, statements: Mapping[str, str]) -> bool:
    """Return whether the statements are those of the file; `HEADWATER_WRITE_GOLDEN=1` writes it, for a review."""
    text = "".join(f"-- {name}\n{statement};\n\n" for name, statement in statements.items())
    if os.environ.get("HEADWATER_WRITE_GOLDEN") == "1":
        file.write_text(text, encoding="utf-8")
    if file.read_text(encoding="utf-8") != text:
        pytest.fail(
            f"the statements differ from {file.name}: review them against Snowflake's reference, then write the file "
            f"with HEADWATER_WRITE_GOLDEN=1\n\n{text}"
        )
    return True
