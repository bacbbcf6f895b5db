"""Parses where a stream begins: `committed`, `earliest`, `latest`, a time, or offsets as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.core.errors import RequestError, did_you_mean
from pipeline.streaming.planning.plan import StreamPlan
from pipeline.streaming.runtime.start import StartPosition

RequestedStart = StartPosition | datetime
"""Where to begin, as requested. A time is resolved to offsets when the stream is opened."""


def parse_start(text: str) -> RequestedStart:
    """Parse `--from`; raise `RequestError` if it is invalid.

    A time is ISO 8601, in UTC without a time zone. Offsets are a JSON object of numbers by partition URI, or the path
    of a file that contains one.
    """
    if text == "committed":
        return "committed"
    if text in {"earliest", "latest"}:
        return "earliest" if text == "earliest" else "latest"
    if text.lstrip().startswith("{"):
        return _offsets(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        path = Path(text)
        if not path.is_file():
            raise RequestError(
                "--from cannot be parsed",
                got=repr(text),
                do="use committed, earliest, latest, a time like 2024-05-01T12:00, or offsets as JSON or in a file",
            ) from None
        return _offsets(path.read_text(encoding="utf-8"))
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def resolved(plan: StreamPlan, begin: RequestedStart) -> StartPosition:
    """Resolve a time to offsets; raise `RequestError` for an unknown partition or an offset outside its extent."""
    if isinstance(begin, datetime):
        return {
            uri: offset for stream_input in plan.inputs for uri, offset in stream_input.log.offsets_at(begin).items()
        }
    if isinstance(begin, Mapping):
        extents = {uri: extent for stream_input in plan.inputs for uri, extent in stream_input.log.extents().items()}
        for uri, offset in begin.items():
            if uri not in extents:
                raise RequestError(f"stream {plan.name!r} has no partition {uri!r}", do=did_you_mean(uri, extents))
            if not extents[uri].begin <= offset <= extents[uri].end:
                raise RequestError(
                    f"{uri} does not contain the start offset",
                    got=f"{offset}; it contains {extents[uri].begin} to {extents[uri].end}",
                )
    return begin


def _offsets(text: str) -> dict[str, int]:
    try:
        offsets: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError("the offsets of --from are not JSON", got=str(error)) from error
    if not isinstance(offsets, dict) or not all(type(value) is int and value >= 0 for value in offsets.values()):
        raise RequestError(
            "the offsets of --from must be numbers by partition",
            got=text[:80],
            do='write {"kafka://…/topic/0": 1200, …}',
        )
    return offsets
