"""Benchmarks of streams: throughput, latency and queries; `python -m benchmarks stream NAME`."""

QUESTIONS = ("throughput", "latency", "nexmark", "peers")
