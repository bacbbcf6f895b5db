"""Streams: how many events a second, how late, and which queries; `python -m benchmarks stream QUESTION`."""

QUESTIONS = ("throughput", "latency", "nexmark", "peers")
