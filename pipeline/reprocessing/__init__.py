"""Rejected rows, validated again after a fix."""
