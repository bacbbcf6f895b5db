"""The form of quarantine tables, with its version in a property of the table."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.core.format_versions import require_known
from pipeline.core.schema import Schema

FORMAT_VERSION = 2
"""The format of the quarantines that are made. Format 1 has the same columns, and no property."""
_PROPERTY = "headwater.formatVersion"
PROPERTIES = {_PROPERTY: str(FORMAT_VERSION)}
QUARANTINE = Schema.of(
    {
        "reasons": "VARCHAR",
        "_source": "VARCHAR",
        "_position": "BIGINT",
        "row": "VARCHAR",
        "_run": "VARCHAR",
        "_quarantined_at": "TIMESTAMPTZ",
    }
)
"""The columns of every quarantine table; `row` is JSON, or for a source the text as it stood in the file."""


def require_format(name: str, properties: Mapping[str, str]) -> None:
    """Raise `StorageError` for a quarantine whose properties say that a later version of Headwater made it."""
    text = properties.get(_PROPERTY, "1")
    version = int(text) if text.isdecimal() else text
    require_known(version, FORMAT_VERSION, f"the quarantine of table {name!r}", "upgrade Headwater")
