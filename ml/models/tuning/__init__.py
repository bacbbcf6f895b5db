"""Tuning: the search for the best hyperparameters."""
