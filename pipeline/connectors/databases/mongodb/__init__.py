"""MongoDB: collections by a cursor field, or in full."""

from pipeline.connectors.databases.mongodb.source import Mongodb, mongodb

__all__ = ["Mongodb", "mongodb"]
