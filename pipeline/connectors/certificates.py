"""Certificates of servers: which authorities a client trusts, and errors for one that it does not trust."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from pipeline.core.errors import Place, SourceError


def trusting(ca: str | None, place: Place) -> ssl.SSLContext:
    """Return the TLS settings of a client that trusts the authorities of a file, or else those of the system.

    Raises `SourceError` if the file cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        got, do = f"{ca!r}: {error.strerror or error}", "pass the path of a PEM file"
        raise SourceError("the file of authorities cannot be read", got=got, do=do, place=place) from error


def untrusted(error: BaseException, place: Place, option: str = "ca='ca.pem'") -> SourceError | None:
    """Return the error for a server whose certificate is not trusted; `None` if that is not the reason of an error.

    Waiting does not help, so it is not temporary, although client libraries report it as a lost connection. `option` is
    how a definition passes the authorities.
    """
    for each in _reasons(error, 8):
        # aiohttp has an error of this type without a message, around the one with it
        message = getattr(each, "verify_message", "").rstrip(".")
        if isinstance(each, ssl.SSLCertVerificationError) and message:
            problem, do = "the certificate of the server is not trusted", way_out(message, option)
            return SourceError(problem, got=message, do=do, place=place)
    return None


def _reasons(error: object, most: int) -> Iterator[BaseException]:
    """Yield an error, and the errors that led to it or are in its arguments."""
    if not isinstance(error, BaseException) or not most:
        return
    yield error
    inner = [getattr(error, name, None) for name in ("exception", "reason", "__cause__", "__context__")]
    for each in (*error.args, *inner):
        yield from _reasons(each, most - 1)


def way_out(message: str, option: str, address: str = "the address") -> str:
    """Return what to do about the reason for which a certificate is not trusted.

    `option` is how a definition passes the authorities, and `address` where it names the server.
    """
    if "expired" in message or "not yet valid" in message:
        return "renew the certificate of the server"
    if "mismatch" in message:
        return f"use a host of its certificate in {address}"
    return f"pass the authority that issued it: {option}"
