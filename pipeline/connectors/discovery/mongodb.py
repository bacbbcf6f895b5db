"""The collections of a database of MongoDB, and some documents of each."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.mongodb.source import collection_names, mongodb
from pipeline.connectors.discovery.named import NamedDiscovery
from pipeline.connectors.discovery.system import SystemAddress
from pipeline.core.discovery import DiscoveredObject, DiscoveryLimits


@dataclass(frozen=True)
class CollectionDiscovery(NamedDiscovery):
    """See `Discoverable`."""

    def sample(self, discovered: DiscoveredObject, limits: DiscoveryLimits) -> pa.Table:
        """Return the first documents of a collection."""
        rows: pa.Table = self.reader(discovered.name).first_documents(limits.rows)
        return rows


def discoverable(address: SystemAddress) -> CollectionDiscovery:
    """Return what looks at the collections of a database: `mongodb://user@host/shop`."""
    password = address.options.get("password")
    database = DatabaseAddress(address.uri, password)
    return CollectionDiscovery(
        database.public(),
        "collection",
        mongodb,
        lambda _: collection_names(database),
        lambda name: (address.uri, name),
        () if password is None else (("password", password),),
        address.options.get("table", ""),
        ("_id",),
    )
