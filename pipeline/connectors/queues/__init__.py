"""Queues, which deliver a message until it is acknowledged: messages are written to a durable log, and then acknowledged."""
