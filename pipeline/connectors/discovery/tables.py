"""The tables of an Iceberg catalog or of a Delta Sharing profile, and some rows of each."""

from __future__ import annotations

from pipeline.connectors.discovery.named import NamedDiscovery
from pipeline.connectors.discovery.system import SystemAddress

_CATALOGS = {"http": "rest", "https": "rest", "thrift": "hive"}
"""The types of Iceberg catalogs by the scheme of their URI; the URI of another one is that of its SQL database."""


def discoverable(address: SystemAddress) -> NamedDiscovery:
    """Return what looks at a catalog, `iceberg+https://catalog.example.com`, or a profile, `delta-sharing://market.share`."""
    options = {name: value for name, value in address.options.items() if name != "table"}
    only = address.options.get("table", "")
    if address.scheme == "delta-sharing":
        return _shared(address.uri.partition("://")[2], options, only)
    uri = address.uri.partition("+")[2]
    return _iceberg(uri, {"type": _CATALOGS.get(uri.partition("://")[0], "sql"), "uri": uri, **options}, only)


def _iceberg(uri: str, properties: dict[str, str], only: str) -> NamedDiscovery:
    from pipeline.connectors.tables.iceberg import IcebergLocation, iceberg_table  # noqa: PLC0415 - only here
    from pipeline.connectors.tables.store_options import references  # noqa: PLC0415 - likewise

    names, catalog = IcebergLocation(uri, references(properties)).table_names, (("catalog", properties),)
    return NamedDiscovery(f"iceberg+{uri}", "Iceberg table", iceberg_table, names, lambda name: (name,), catalog, only)


def _shared(profile: str, options: dict[str, str], only: str) -> NamedDiscovery:
    from pipeline.connectors.tables.sharing import delta_sharing  # noqa: PLC0415 - only here
    from pipeline.connectors.tables.sharing_protocol import shared_tables  # noqa: PLC0415 - likewise

    def names(most: int) -> list[str]:
        return shared_tables(profile, most)

    def arguments(name: str) -> tuple[object, ...]:
        return (profile, *name.split(".", 2))

    hosts = options.get("allowed_hosts")
    given = () if hosts is None else (("allowed_hosts", tuple(hosts.split(","))),)
    return NamedDiscovery(f"delta-sharing://{profile}", "shared table", delta_sharing, names, arguments, given, only)
