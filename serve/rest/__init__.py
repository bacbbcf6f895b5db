"""The REST interface, version 1: tables in PostgREST syntax, models, and the description of both in OpenAPI."""
