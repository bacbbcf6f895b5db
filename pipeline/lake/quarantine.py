"""The schema of quarantine tables, and the format version in a table property."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.core.format_versions import require_known
from pipeline.core.schema import Schema

FORMAT_VERSION = 2
"""The format of new quarantine tables. Format 1 has the same columns but no property."""
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
"""The columns of every quarantine table; `row` is JSON, or the original text for a row of a source."""


def require_format(name: str, properties: Mapping[str, str]) -> None:
    """Raise `StorageError` if the quarantine was created by a later version of Headwater."""
    text = properties.get(_PROPERTY, "1")
    version = int(text) if text.isdecimal() else text
    require_known(version, FORMAT_VERSION, f"the quarantine of table {name!r}", "upgrade Headwater")
