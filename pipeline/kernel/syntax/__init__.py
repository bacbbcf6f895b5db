"""What the text of a statement says: the tables it reads, and the functions it calls."""
