"""Runs streams: reads logs, computes epochs, and commits each one exactly once."""
