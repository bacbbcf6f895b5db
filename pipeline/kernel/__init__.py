"""DuckDB on Arrow: planning and splitting SQL, mergeable aggregates, expectations on a block."""
