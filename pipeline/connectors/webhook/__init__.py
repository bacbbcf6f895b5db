"""Webhooks as a source: messages that other systems send are durable before they are acknowledged."""

from pipeline.connectors.webhook.signatures import Signature

__all__ = ["Signature"]
