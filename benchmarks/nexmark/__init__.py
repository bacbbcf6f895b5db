"""NEXMark: an auction house as three streams, with queries."""
