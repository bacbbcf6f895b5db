"""Which addresses a connector may connect to, so that a response cannot direct it to a system inside the network.

The hosts of a definition may have any address. All others, which come from redirects and links, must be public, and the
connection is made to the address that was checked: a name that resolves differently a moment later changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence

from pipeline.core.errors import SourceError

Resolve = Callable[[str, int], Sequence[str]]
"""Returns the addresses of a host and a port."""


def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host; raise `OSError` if it has none."""
    return tuple(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def is_public(address: str) -> bool:
    """Return whether an address is reachable from anywhere, also if it is an IPv4 address in IPv6 form."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return inner.is_global
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # an IPv4 address behind a gateway
            return ipaddress.ip_address(int(ip) & 0xFFFFFFFF).is_global
    return ip.is_global and not ip.is_multicast


def checked_addresses(host: str, port: int, allowed: Iterable[str], resolve_host: Resolve = resolve) -> Sequence[str]:
    """Return the addresses of a host to connect to.

    Raises `SourceError` if the host is not allowed and one of its addresses is not public, and `OSError` if it has none.
    """
    if host.lower() in {name.lower() for name in allowed}:
        return (host,)
    addresses = resolve_host(host, port)
    private = next((address for address in addresses if not is_public(address)), None)
    if private is not None:
        raise SourceError(
            f"a response refers to {host!r}, which has a private address",
            got=private,
            do=f"name {host!r} in allowed_hosts if this host is to be read too",
        )
    return addresses
