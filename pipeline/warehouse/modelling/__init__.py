"""Star schemas: dimensions with surrogate keys and history, facts with lookups, bridges, marts, and the bus matrix."""
