"""Metrics that callers ask for, in every interface."""
