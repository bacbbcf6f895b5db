"""The signatures of webhooks: pure functions of the headers, the body, the shared secret and the time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, get_args

from pipeline.core.credentials import secret
from pipeline.core.errors import DefinitionError

Scheme = Literal["body", "github", "stripe", "standard"]
_TOLERANCE = timedelta(minutes=5)
_STANDARD_PREFIX = "whsec_"


@dataclass(frozen=True)
class Signature:
    """How messages are signed with a shared secret, which is a reference such as `env:NAME`.

    body      HMAC-SHA256 of the body in hexadecimal, in `header`, after `prefix`
    github    as `body`, in `X-Hub-Signature-256`, after `sha256=`
    stripe    HMAC-SHA256 of `timestamp.body`, in `Stripe-Signature` as `t=timestamp,v1=signature`
    standard  Standard Webhooks: HMAC-SHA256 of `id.timestamp.body` in Base64, in `webhook-signature`

    Timestamps may differ by `tolerance` from the clock of the receiver, so that messages cannot be sent again later.
    """

    key: str = field(repr=False)
    scheme: Scheme = "body"
    header: str = "X-Signature"
    prefix: str = ""
    tolerance: timedelta = _TOLERANCE

    def __post_init__(self) -> None:
        """Raise `DefinitionError` for an unknown scheme."""
        if self.scheme not in get_args(Scheme):
            known = ", ".join(map(repr, get_args(Scheme)))
            raise DefinitionError("unknown scheme of signatures", got=repr(self.scheme), do=f"use one of {known}")

    def problem(self, headers: Mapping[str, str], body: bytes, now_s: float) -> str:
        """Return why a message is not accepted, or an empty text. Names of headers are in lower case."""
        key = secret(self.key, "the key of webhook signatures")
        if self.scheme == "stripe":
            return self._stripe(key.encode(), headers, body, now_s)
        if self.scheme == "standard":
            return self._standard(key, headers, body, now_s)
        header, prefix = (
            ("x-hub-signature-256", "sha256=") if self.scheme == "github" else (self.header.lower(), self.prefix)
        )
        sent = headers.get(header, "")
        if not sent.startswith(prefix) or not sent:
            return f"no signature in the header {header}"
        return _compared([sent[len(prefix) :].lower()], _digest(key.encode(), body).hex())

    def _stripe(self, key: bytes, headers: Mapping[str, str], body: bytes, now_s: float) -> str:
        pairs = [part.strip().partition("=") for part in headers.get("stripe-signature", "").split(",")]
        stamps = [text for name, _, text in pairs if name == "t"]
        if not stamps:
            return "no signature in the header stripe-signature"
        expected = _digest(key, f"{stamps[0]}.".encode() + body).hex()
        return self._late(stamps[0], now_s) or _compared([text for name, _, text in pairs if name == "v1"], expected)

    def _standard(self, key: str, headers: Mapping[str, str], body: bytes, now_s: float) -> str:
        stamp, name = headers.get("webhook-timestamp", ""), headers.get("webhook-id", "")
        try:
            raw = base64.b64decode(key.removeprefix(_STANDARD_PREFIX), validate=True)
        except binascii.Error:
            raw = key.encode()
        sent = [
            part.partition(",")[2] for part in headers.get("webhook-signature", "").split() if part.startswith("v1,")
        ]
        if not sent or not name:
            return "no signature in the header webhook-signature"
        expected = base64.b64encode(_digest(raw, f"{name}.{stamp}.".encode() + body)).decode()
        return self._late(stamp, now_s) or _compared(sent, expected)

    def _late(self, stamp: str, now_s: float) -> str:
        if not (stamp.isascii() and stamp.isdigit()) or len(stamp) > 15:  # noqa: PLR2004 - the length of any time in milliseconds
            return "the timestamp of the signature is not a number"
        distance_s = abs(now_s - int(stamp))
        if distance_s <= self.tolerance.total_seconds():
            return ""
        return f"the timestamp of the signature is {distance_s:,.0f} s from now"


def _digest(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def _compared(sent: list[str], expected: str) -> str:
    """Return a problem if none of the signatures is the expected one; several are sent while a key is replaced."""
    matches = [hmac.compare_digest(each.encode("utf-8", "replace"), expected.encode()) for each in sent]
    return "" if any(matches) else "the signature does not match"
