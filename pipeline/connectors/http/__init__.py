"""HTTP for connectors: bounded responses, checked addresses, credentials by reference, guarded calls."""
