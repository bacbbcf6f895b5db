"""Definitions, errors, settings and the graph: what every stage shares. No Ray, no engine, no I/O library."""
