"""News of versions: a replica that sees a new version of a table tells the others, which then read the lake at once.

Nothing depends on the news: without them, replicas read the lake once a second. What is told is checked by reading it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

from serve.access.shared_server import SharedServer

_CHANNEL = "versions"


class SharedVersions:
    """Tells other replicas of versions, and is told of theirs. Thread-safe."""

    def __init__(self, server: SharedServer, tables: Collection[str], told: Callable[[str, str], None]) -> None:
        """Call `told` with the name and the identity of each version of these tables that another replica announces."""
        self._server = server
        self._tables: Mapping[bytes, str] = {server.name("table", name): name for name in tables}
        self._told = told
        self._known: dict[str, str] = {}
        self.received = 0
        """How many versions others have announced."""
        server.watch(_CHANNEL, self._receive)

    def announce(self, table: str, identity: str) -> None:
        """Tell the others of a version, unless they have told it; does not wait."""
        if self._known.get(table) != identity:
            self._known[table] = identity
            message = self._server.name("table", table) + b" " + identity.encode()
            self._server.submit(partial(self._server.publish, _CHANNEL, message))

    def _receive(self, message: bytes) -> None:
        name, _, identity = message.rpartition(b" ")
        table = self._tables.get(name)
        if table is not None and self._known.get(table) != identity.decode("ascii", "replace"):
            self.received += 1
            self._known[table] = identity.decode("ascii", "replace")
            self._told(table, self._known[table])
