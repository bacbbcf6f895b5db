"""Describes what a system contains, from a bounded sample: schemas, keys, times, likely personal data, and definitions."""
