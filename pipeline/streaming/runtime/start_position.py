"""Where a stream is asked to begin, in words: `committed`, `earliest`, `latest`, a time, or offsets as JSON."""

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
"""Where to begin, as it is asked for: a time is found in the logs when the stream is opened."""


def begin_of(words: str) -> RequestedStart:
    """Return what `--from` says; raise `RequestError` for what cannot be read.

    A time is ISO 8601, in UTC where it does not say; offsets are JSON, or the path of a file with it: numbers by the
    URI of the partition.
    """
    if words == "committed":
        return "committed"
    if words in {"earliest", "latest"}:
        return "earliest" if words == "earliest" else "latest"
    if words.lstrip().startswith("{"):
        return _offsets(words)
    try:
        time = datetime.fromisoformat(words)
    except ValueError:
        path = Path(words)
        if not path.is_file():
            raise RequestError(
                "--from cannot be read",
                got=repr(words),
                do="write committed, earliest, latest, a time like 2024-05-01T12:00, or offsets as JSON or in a file",
            ) from None
        return _offsets(path.read_text(encoding="utf-8"))
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def resolved(plan: StreamPlan, begin: RequestedStart) -> StartPosition:
    """Return offsets for a time; raise `RequestError` for a partition that a stream's logs do not have."""
    if isinstance(begin, datetime):
        return {
            uri: offset for stream_input in plan.inputs for uri, offset in stream_input.log.offsets_at(begin).items()
        }
    if isinstance(begin, Mapping):
        extents = {uri: extent for stream_input in plan.inputs for uri, extent in stream_input.log.extents().items()}
        for uri, offset in begin.items():
            if uri not in extents:
                raise RequestError(f"stream {plan.name!r} reads no partition {uri!r}", do=did_you_mean(uri, extents))
            if not extents[uri].begin <= offset <= extents[uri].end:
                raise RequestError(
                    f"{uri} does not hold the offset to begin at",
                    got=f"{offset}; it holds {extents[uri].begin} to {extents[uri].end}",
                )
    return begin


def _offsets(text: str) -> dict[str, int]:
    try:
        offsets: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError("the offsets of --from are not JSON", got=str(error)) from error
    if not isinstance(offsets, dict) or not all(type(value) is int and value >= 0 for value in offsets.values()):
        raise RequestError(
            "the offsets of --from are numbers by partition", got=text[:80], do='write {"kafka://…/topic/0": 1200, …}'
        )
    return offsets
