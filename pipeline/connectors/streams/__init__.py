"""Streams of other systems whose records have positions, so that a range of them can be read again."""
