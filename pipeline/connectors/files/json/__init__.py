"""JSON: one object a line, arrays, and objects that span lines."""
