"""Streams: stateful operators, planning, and the runtime."""
