"""Serving of a project over HTTP: `create_app` is the application, and `serve.client` a client of it."""

from typing import TYPE_CHECKING

from pipeline.core.lazy import lazy

if TYPE_CHECKING:
    from serve.app import create_app

__all__ = ["create_app"]

__getattr__, __dir__ = lazy(__name__, {"serve.app": ("create_app",)})
