"""Aggregates whose states merge: a grouped statement as a partial step, a merge and a finish."""
