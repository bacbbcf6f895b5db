"""Places outside the lake that rows of tables are sent to: one module per system."""

from pipeline.sinks.callback import to_callback
from pipeline.sinks.kafka import to_kafka
from pipeline.sinks.online import OnlineStore, to_online

__all__ = ["OnlineStore", "to_callback", "to_kafka", "to_online"]
