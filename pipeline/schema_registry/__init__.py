"""The schema registry: subjects with versions of schemas, and which changes of them are compatible."""
