"""What is committed to a table, and what follows from a commit: quarantine, warehouse, catalog and sinks."""
