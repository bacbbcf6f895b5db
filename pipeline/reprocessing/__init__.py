"""Replay of rejected rows, and restores of tables."""
