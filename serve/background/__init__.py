"""Statements that run in the background, and their results, which are kept for a while."""
