"""Features from the online store: for predictions, and for callers who ask for those of entities."""
