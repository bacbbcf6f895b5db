"""A session with a project, for notebooks: its tables, features and models as objects that show themselves."""

from ml.session.rows import Rows
from ml.session.session import Session, connect

__all__ = ["Rows", "Session", "connect"]
