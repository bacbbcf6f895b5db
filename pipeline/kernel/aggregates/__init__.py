"""Mergeable aggregates: a grouped statement as a partial aggregation, a merge and a final projection."""
