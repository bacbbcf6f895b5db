"""Execution strategies of a SQL statement over splits, buckets or complete inputs: pure decisions on the parsed text."""
