"""Queries of one table, whatever interface they came through: parsed, checked against its columns, and compiled to SQL."""
