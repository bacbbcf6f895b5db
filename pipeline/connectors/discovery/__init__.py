"""What systems contain, for `headwater discover`: files, databases, topics and endpoints."""
