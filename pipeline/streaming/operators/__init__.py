"""Streams: operators with memory, watermarks, epochs and snapshots."""
