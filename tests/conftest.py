from __future__ import annotations

from tests.rigs.weed import s3 as s3  # noqa: PLC0414 - the fixture
