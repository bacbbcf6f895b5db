"""The client of S3, which sends small files with the request that stores them.

Botocore asks the store with `Expect: 100-continue` whether it may send the content, before it sends it, also of a few
bytes. So each file took two round trips, and so did each commit. What is large is still asked for: the store may refuse it.
"""

from __future__ import annotations

from typing import Any

from botocore.handlers import add_expect_header
from botocore.utils import determine_content_length
from s3fs import S3FileSystem

from pipeline.core.object_store_options import S3FS_TRIES

ASKED_BYTES = 1 << 20
"""The size from which on the store is asked before a content is sent."""
_EVENT = "before-call.s3"


class S3Client(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """S3 as fsspec accesses it, with a request for each small file."""

    retries = S3FS_TRIES

    async def set_session(self, *args: Any, **options: Any) -> Any:
        """Return the client of botocore, which is created by the first call."""
        before, client = self._s3, await super().set_session(*args, **options)
        if client is not before:
            client.meta.events.unregister(_EVENT, add_expect_header)
            client.meta.events.register(_EVENT, _ask_if_large, unique_id="headwater-ask-if-large")
        return client


def _ask_if_large(model: Any, params: dict[str, Any], **options: Any) -> None:
    size = determine_content_length(params.get("body"))
    if size is None or size >= ASKED_BYTES:
        add_expect_header(model, params, **options)
