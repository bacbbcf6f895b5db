"""The endpoints of a project, served on loopback from a thread of the tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from pipeline.project.project import Project
from serve import create_app


@contextmanager
def served(project: Project, *, log_level: str = "error") -> Iterator[str]:
    """Serve a project until the context ends; yields the URL."""
    server = uvicorn.Server(uvicorn.Config(create_app(project), port=0, log_level=log_level, lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
