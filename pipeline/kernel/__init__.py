"""DuckDB on Arrow: execution strategies for SQL, mergeable aggregates, and expectations."""
