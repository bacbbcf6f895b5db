"""Stateful operators of streams, their state and snapshots, and watermarks."""
