"""`headwater serve`."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.console import err, grid, open_project, out, print_json
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.errors import RequestError, StopError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.project.project import Project
    from serve.deployment.check import CallResult
    from serve.deployment.deploy import Endpoint
    from serve.tls import TlsFiles


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    direct_port: Annotated[
        int | None,
        typer.Option(help="Port on which the replicas also answer themselves, without Ray's proxy.", min=1, max=65535),
    ] = None,
    flight_port: Annotated[
        int | None,
        typer.Option(help="Port on which the replicas answer Flight SQL, for ADBC and JDBC drivers.", min=1, max=65535),
    ] = None,
    postgres_port: Annotated[
        int | None,
        typer.Option(
            help="Port on which the replicas answer PostgreSQL's protocol, for psql and BI tools.", min=1, max=65535
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate of the other ports than --port, for TLS: a PEM file.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, likewise.")] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(help="Authorities of clients' certificates, which the direct port accepts instead of keys."),
    ] = None,
    replicas: Annotated[
        str, typer.Option(help="How many processes answer: a number, or 1-4 for as many as requests need.")
    ] = "1",
    check: Annotated[
        bool, typer.Option("--check", help="Start, call each kind of endpoint once, show the responses, and stop.")
    ] = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Serve tables and models over HTTP with Ray Serve, with an OpenAPI page at /docs."""
    from serve.deployment import check as checks  # noqa: PLC0415 - an optional dependency, slow to import
    from serve.deployment import deploy  # noqa: PLC0415 - see above
    from serve.deployment.replicas import Replicas  # noqa: PLC0415 - see above

    project = open_project(folder, env)
    endpoint = deploy.start(
        project.settings.root,
        project.settings.env,
        host=host,
        port=port,
        direct_port=direct_port,
        flight_port=flight_port,
        postgres_port=postgres_port,
        tls=_tls_files(tls_cert, tls_key, client_ca),
        replicas=Replicas.of(replicas),
    )
    try:
        if check:
            _show_results(endpoint.url, checks.check(endpoint.url, project), as_json=as_json)
            return
        _show_addresses(endpoint)
        if not _has_keys(project):
            err.print("[yellow]there are no keys:[/] create one with `headwater keys create NAME`")
        err.print("[dim]press Ctrl-C to stop[/]")
        _wait()
    finally:
        deploy.stop()


def _tls_files(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    from serve.tls import TlsFiles  # noqa: PLC0415 - an optional dependency, slow to import

    if certificate is not None and key is not None:
        authorities = None if client_ca is None else str(client_ca.resolve())
        return TlsFiles(str(certificate.resolve()), str(key.resolve()), authorities)
    if (certificate, key, client_ca) != (None, None, None):
        raise RequestError("TLS needs a certificate and a key", do="pass both --tls-cert and --tls-key")
    return None


def _show_results(url: str, results: Sequence[CallResult], *, as_json: bool) -> None:
    """Print the results of calls; raise `StopError` for the first that failed."""
    if as_json:
        print_json(results)
    else:
        rows = [(each.method, each.path, each.status, f"{each.ms:.0f}", each.body) for each in results]
        grid(f"Served at {url}", ("method", "path", "status", "ms", "response"), rows, right="status, ms")
    bad = next((each for each in results if not each.is_good), None)
    if bad is not None:
        raise StopError(f"{bad.method} {bad.path} returned {bad.status}", got=bad.body)


def _show_addresses(endpoint: Endpoint) -> None:
    out.print(f"serving at {endpoint.url}  (tables: /v1/tables, health: /health, docs: {endpoint.url}/docs)")
    if endpoint.direct_url is not None:
        out.print(f"without Ray's proxy: {endpoint.direct_url}")
    if endpoint.flight_url is not None:
        out.print(f"Flight SQL: {endpoint.flight_url}")
    if endpoint.postgres_url is not None:
        out.print(f"PostgreSQL's protocol: {endpoint.postgres_url}", soft_wrap=True)


def _has_keys(project: Project) -> bool:
    from pipeline.governance.api_keys import ApiKeys  # noqa: PLC0415 - not needed by other commands
    from pipeline.project.workspace import Workspace  # noqa: PLC0415 - likewise

    catalog = Workspace(project).catalog
    try:
        return any(key.is_valid(time.time()) for key in ApiKeys(catalog, project.settings.env).all())
    finally:
        catalog.close()


def _wait() -> None:
    """Wait for SIGINT or SIGTERM."""
    stop_requested = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop_requested.set())
    while not stop_requested.wait(0.5):  # a signal just before a wait is handled when the wait ends
        pass
