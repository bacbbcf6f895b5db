"""Apache Kafka as a source: topics as logs. The only place that knows Kafka's client."""

from pipeline.sources.kafka.definition import Kafka, kafka
from pipeline.sources.kafka.formats import Avro, Protobuf
from pipeline.sources.kafka.security import Sasl, Tls

__all__ = ["Avro", "Kafka", "Protobuf", "Sasl", "Tls", "kafka"]
