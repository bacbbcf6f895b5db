"""Serving: a project's tables and models over HTTP, on FastAPI and Ray Serve."""

from serve.app import create_app

__all__ = ["create_app"]
