"""Webhooks as a source. Create it with `webhook`; `headwater serve` receives the messages.

Delivery: each message that was acknowledged, once. A message is on disk before it is acknowledged, and one with an id that
was received before is acknowledged without being stored again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from pipeline.connectors.spool.log_reader import RECEIVED_AT, MessageLog, log_naming
from pipeline.connectors.webhook.signatures import Signature
from pipeline.core.definitions import names
from pipeline.core.errors import DefinitionError
from pipeline.core.event_time import parse_duration
from pipeline.core.fingerprint import fingerprint

if TYPE_CHECKING:
    from pipeline.connectors.webhook.receiver import Receiver

_IDS = ("idempotency-key", "webhook-id", "x-github-delivery")
_SECRET = ("authorization", "cookie", "credential", "hmac", "key", "password", "secret", "signature", "token")
"""Parts of the names of headers that may contain credentials or signatures."""


@dataclass(frozen=True, kw_only=True)
class Webhook(MessageLog):
    """The messages that were sent to an endpoint. Create it with `webhook`."""

    name: str
    signature: Signature | None = None
    keyed: bool = False
    """Whether rows come from callers with a key, and not from senders of webhooks."""
    id_headers: tuple[str, ...] = _IDS
    kept_s: float = field(default=30 * 86400.0, compare=False)
    most_bytes: int = field(default=1 << 20, compare=False)

    known_metadata: ClassVar[tuple[str, ...]] = (RECEIVED_AT, "id", "headers")

    @property
    def fingerprint(self) -> str:
        """A hash of the metadata; the name is not part of it."""
        return fingerprint("webhook", self.metadata, *self.naming.renamed_part)

    @property
    def uri(self) -> str:
        """The name of the endpoint as a URI."""
        return f"webhook://{self.name}"

    def receiver(self, now: Callable[[], float] = time.time) -> Receiver:
        """Return what accepts messages for this source."""
        from pipeline.connectors.webhook.receiver import Receiver  # noqa: PLC0415 - only the server needs it

        return Receiver(self, now)

    def kept_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers that are stored: none unless they are metadata, and none with credentials."""
        if "headers" not in self.metadata:
            return {}
        signed = set() if self.signature is None else {self.signature.header.lower()}
        return {
            name: text
            for name, text in headers.items()
            if name not in signed and (name in self.id_headers or not any(part in name for part in _SECRET))
        }


def webhook(
    name: str,
    *,
    signature: Signature | None = None,
    unsigned: bool = False,
    keyed: bool = False,
    id_header: str | None = None,
    metadata: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    keep: str | timedelta = "30 days",
    most_bytes: int = 1 << 20,
    spool: str | None = None,
) -> Webhook:
    """Read the messages that other systems post to `/webhooks/NAME` of `headwater serve`.

    Each message is one JSON object. `signature` says how messages are signed; without it, `unsigned=True` accepts messages
    from anyone who can reach the server. With `keyed=True`, rows are posted to `/v1/sources/` and the name of the source instead, by
    callers whose key has the scope `write`. A message whose id was received before is not stored again: the id is in `id_header` (by
    default `Idempotency-Key`, `Webhook-Id` or `X-GitHub-Delivery`). `metadata` adds the columns `_received_at`, `_id` and `_headers`,
    and `rename` maps names of fields to names of columns. Messages are kept on disk below `spool`, on the machine of the server, for
    `keep`.

    Raises `DefinitionError` for a name that is not a part of a path, and unless one of signature=, unsigned=True and keyed=True is
    given.
    """
    if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
        raise DefinitionError("the name of a webhook must consist of letters, digits, - and _", got=repr(name))
    if (signature is not None) + unsigned + keyed != 1:
        raise DefinitionError(
            "a webhook needs one of signature=, unsigned=True and keyed=True",
            do="pass for example signature=Signature('env:WEBHOOK_KEY', scheme='github')",
        )
    return Webhook(
        name=name,
        signature=signature,
        keyed=keyed,
        id_headers=_IDS if id_header is None else (id_header.lower(),),
        metadata=names(metadata),
        naming=log_naming(rename, Webhook.known_metadata),
        kept_s=parse_duration(keep, "keep=").total_seconds(),
        most_bytes=most_bytes,
        spool=spool,
    )
