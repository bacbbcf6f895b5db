"""NEXMark: an auction house as three streams, and the questions asked of it."""
