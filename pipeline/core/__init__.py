"""Definitions, errors, settings and the graph, shared by all stages. Imports no Ray, no engine and no I/O library."""
