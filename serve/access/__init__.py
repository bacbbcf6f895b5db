"""Who calls, what the caller may see and do, how often, and the record of it."""
