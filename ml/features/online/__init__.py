"""The online store: the values that features have now, by entity."""
