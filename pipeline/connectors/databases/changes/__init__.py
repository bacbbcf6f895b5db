"""Changes of database tables in a durable log, from which they are read as streams or in batch."""
