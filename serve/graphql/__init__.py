"""The GraphQL endpoint: a schema from the tables and models that a caller may use, and one statement for each field of a query."""
