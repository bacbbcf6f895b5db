"""Event Hubs is read with the Kafka source: its address, and SASL PLAIN over TLS with the connection string by reference."""

from __future__ import annotations

import pytest

from pipeline.connectors.kafka.event_hubs import event_hubs
from pipeline.core.errors import DefinitionError

TEXT = "Endpoint=sb://orders.servicebus.windows.net/;SharedAccessKey=c2VjcmV0"


def test_the_client_authenticates_with_the_connection_string_over_tls(monkeypatch):
    monkeypatch.setenv("HUB", TEXT)
    source = event_hubs("clicks", namespace="orders", connection="env:HUB", metadata=("key",))
    assert source.options() == {
        "bootstrap.servers": "orders.servicebus.windows.net:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "$ConnectionString",
        "sasl.password": TEXT,
    }
    assert source.topics == ("clicks",)
    assert TEXT not in repr(source)
    assert event_hubs("a", namespace="orders.servicebus.usgovcloudapi.net").servers.startswith(
        "orders.servicebus.usgov"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"namespace": "sb://orders"}, "the namespace of Event Hubs is not a name: got 'sb://orders'"),
        ({"namespace": "orders", "connection": TEXT}, "the connection string of Event Hubs must be a reference"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(DefinitionError, match=message) as error:
        event_hubs("clicks", **options)
    assert "c2VjcmV0" not in str(error.value)
