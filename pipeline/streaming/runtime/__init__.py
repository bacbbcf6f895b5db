"""Streams run: logs are read, epochs made, and each committed once."""
