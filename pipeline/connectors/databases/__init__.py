"""Tables of databases: one module or folder per system, and what they have in common."""
