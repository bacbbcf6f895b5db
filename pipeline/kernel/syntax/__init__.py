"""Analysis of a statement's text: the tables it reads, and the functions it calls."""
