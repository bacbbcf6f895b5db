"""Azure Event Hubs, which speaks Kafka's protocol. Create the source with `event_hubs`.

Delivery: each event once, by its offset in its partition, as for `kafka`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.connectors.kafka.security import Sasl
from pipeline.connectors.kafka.source import Kafka, kafka
from pipeline.connectors.kafka.value_formats import Field, Format
from pipeline.core.credentials import is_reference
from pipeline.core.errors import DefinitionError

_DOMAIN, _PORT = ".servicebus.windows.net", 9093
_USER = "$ConnectionString"


def event_hubs(
    hub: str | Sequence[str],
    *,
    namespace: str,
    connection: str = "env:EVENT_HUBS_CONNECTION",
    format: Format = "json",  # noqa: A002 - the usual name of the option
    metadata: Field | Sequence[Field] = (),
    rename: Mapping[str, str] | None = None,
) -> Kafka:
    """Read event hubs of a namespace by name; the events of each partition are in the order of their offsets.

    `namespace` is its name, or its host in another cloud. `connection` is a reference to its connection string, such as
    `env:NAME` or `file:PATH`. `format`, `metadata` and `rename` are those of `kafka`. Raises `DefinitionError` for invalid options.
    """
    if not namespace or ":" in namespace:
        raise DefinitionError("the namespace of Event Hubs is not a name", got=repr(namespace), do="write 'orders'")
    if not is_reference(connection):
        do = 'pass connection="env:NAME" or "file:PATH"'
        raise DefinitionError("the connection string of Event Hubs must be a reference", do=do)
    host = namespace if "." in namespace else f"{namespace}{_DOMAIN}"
    security = Sasl(_USER, connection, mechanism="PLAIN")
    return kafka(hub, servers=f"{host}:{_PORT}", format=format, metadata=metadata, rename=rename, security=security)
