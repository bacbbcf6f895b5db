"""Brokers of Apache Kafka on this machine: for development, tests and benchmarks."""
