"""Apache Kafka: topics as sources and sinks. Only this folder imports a Kafka client."""

from pipeline.connectors.kafka.security import Sasl, Tls
from pipeline.connectors.kafka.sink import to_kafka
from pipeline.connectors.kafka.source import Kafka, kafka
from pipeline.connectors.kafka.value_formats import Avro, Debezium, Protobuf

__all__ = ["Avro", "Debezium", "Kafka", "Protobuf", "Sasl", "Tls", "kafka", "to_kafka"]
