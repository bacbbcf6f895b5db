"""Replay of rejected rows after a fix."""
