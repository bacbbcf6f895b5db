"""OData services as a source."""
