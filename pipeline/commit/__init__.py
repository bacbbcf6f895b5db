"""Commits to tables, and post-commit: quarantine, warehouse, catalog and sinks."""
