"""Predictions for requests: which versions of a model answer, and the log of what they said."""
