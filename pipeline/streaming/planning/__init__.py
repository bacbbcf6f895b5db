"""Determines which definitions are streams, and plans how each one is executed."""
