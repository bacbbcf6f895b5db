"""The spool: rows that were fetched from a system that cannot deliver them twice, kept as JSON lines until they are read."""
