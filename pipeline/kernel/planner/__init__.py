"""How one SQL statement runs over splits, buckets or whole inputs: pure decisions on the parsed text."""
