"""Taps of Singer and connectors of Airbyte as sources: programs that write messages to their standard output."""
