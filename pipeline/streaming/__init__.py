"""Streams: operators, which hold state, and the runtime that drives them."""
