"""Where work runs."""

from __future__ import annotations

from typing import Literal

Execution = Literal["auto", "inline", "ray"]
"""`inline`: in this process; `ray`: as one Ray Data execution; `auto`: inline below `inline_bytes` of input."""
