"""Deploys the app on Ray Serve: replicas of one deployment behind Serve's HTTP proxy."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ray
import ray.serve
from ray.serve.config import BackpressureConfig, ControllerOptions, HTTPOptions
from ray.serve.schema import LoggingConfig
from starlette.applications import Starlette

from pipeline.batch.ray_cluster import join
from pipeline.core.errors import RequestError, SettingsError, UnavailableError
from pipeline.kernel.engine import first_line
from pipeline.project.project import load
from serve.app import create_app
from serve.deployment.direct import DirectServer
from serve.deployment.proxy_retries import middlewares
from serve.deployment.replicas import DIRECT_REQUESTS, Replicas
from serve.flight.server import FlightServer
from serve.http_errors import BusyError
from serve.postgres.server import PostgresEndpoint
from serve.queries.select import Statement
from serve.rest.models import MOST_PREDICTIONS
from serve.tls import TlsFiles

APP = "headwater"
"""The name of the Serve application."""
_CONTROLLER = ControllerOptions(
    runtime_env={
        "env_vars": {
            # Serve kills a proxy that has not started after 5 s, which it may not on a busy machine, and gives up after 60 s
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "50",
            # how soon the number of replicas can follow the requests
            "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
            "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{middlewares.__module__}.{middlewares.__name__}",
        }
    }
)
_ENDS_S = 5.0
_DRAINS_S = 35.0
"""How long a replica may take to end: longer than a request."""
ONE_REPLICA = Replicas()
_QUIET = LoggingConfig(log_level=logging.WARNING, enable_access_log=False)


@dataclass(frozen=True)
class Endpoint:
    """The addresses of a served project."""

    url: str
    """That of Ray Serve's proxy."""
    direct_url: str | None = None
    """That on which replicas answer themselves."""
    flight_url: str | None = None
    """That of Flight SQL."""
    postgres_url: str | None = None
    """That of PostgreSQL's protocol."""


class Server:
    """One replica: it loads the project from its folder and serves its app."""

    def __init__(  # noqa: PLR0913 - one for each port, given by position to a process of Ray
        self,
        root: str,
        env: str | None,
        direct: tuple[str, int] | None = None,
        flight: tuple[str, int] | None = None,
        postgres: tuple[str, int] | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        """Load the project; an error in its settings or definitions fails the deployment.

        `direct`, `flight` and `postgres` are the hosts and ports of the direct server, of Flight SQL and of PostgreSQL's protocol,
        which use `tls` if it is given.
        """
        self._app = create_app(load(root, env=env))
        self._direct = None if direct is None else DirectServer(self._app, *direct, tls)
        backend = self._app.state.backend
        self._flight = None if flight is None else FlightServer(backend, *flight, tls)
        self._postgres = None if postgres is None else PostgresEndpoint(backend, *postgres, tls)
        doors = (self._direct, self._flight, self._postgres)
        self._app.state.closing.extend(each.close for each in doors if each is not None)

    def __serve_build_asgi_app__(self) -> Starlette:
        """Return the app; called once by Serve."""
        return self._app

    def end_subscriptions(self) -> None:
        """End what waits for new versions, which would last until the replica is killed."""
        self._app.state.backend.tables.is_draining = True

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what Serve does not see of this replica; called by Serve."""
        return {DIRECT_REQUESTS: 0.0 if self._direct is None else self._direct.mean_requests()}

    def check_health(self) -> None:
        """Raise if the replica's DuckDB instance or one of its own servers does not answer; Serve then replaces the replica.

        The lake is not checked: if it is unavailable, a new replica would fail too, and /health reports it.
        """
        if self._direct is not None and not self._direct.is_alive:
            raise UnavailableError("the direct server has ended")
        if self._postgres is not None and not self._postgres.is_alive:
            raise UnavailableError("the server of PostgreSQL's protocol has ended")
        self._app.state.backend.engine.rows(Statement("select 1"))


def start(  # noqa: PLR0913 - options of a server, all keyword-only
    project_root: Path | str,
    env: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    direct_port: int | None = None,
    flight_port: int | None = None,
    postgres_port: int | None = None,
    tls: TlsFiles | None = None,
    replicas: Replicas = ONE_REPLICA,
) -> Endpoint:
    """Serve a project and return once its replicas answer.

    Joins the cluster of `RAY_ADDRESS`, or starts a local one. Replicas run on this machine, where the project's
    folder is. They inherit this process's `HEADWATER_*` variables; all other variables that the settings name must be
    set where Ray was started. With `direct_port`, the replicas also listen there themselves; see `DirectServer`. With `flight_port`, they
    answer Flight SQL there; see `FlightServer`. With `postgres_port`, they answer drivers of PostgreSQL there; see `PostgresEndpoint`. All
    of them use `tls` if it is given; Ray Serve's proxy cannot.

    Before Ray is started, raises `RequestError` for a port in use, one port for both, files for TLS that cannot be used,
    and the errors of loading the project.
    """
    own = (direct_port, flight_port, postgres_port)
    if tls is not None:
        if own == (None, None, None):
            raise RequestError(
                "Ray Serve's proxy has no TLS", do="pass --direct-port, --flight-port or --postgres-port too"
            )
        tls.context()
    _require_ports(host, [port, *(each for each in own if each is not None)])
    settings = load(project_root, env=env).settings
    numbers = replicas.options(settings.serve.requests_per_replica)
    found_ray = ray.is_initialized()
    join()
    try:
        _listen(host, port)
    except BaseException:
        if not found_ray:
            ray.shutdown()
        raise
    try:
        listening = (None if each is None else (host, each) for each in own)
        _deploy((str(settings.root), env, *listening, tls), numbers)
    except BaseException:
        stop()
        raise
    address, secure = f"{f'[{host}]' if ':' in host else host}", tls is not None
    database = quote(settings.name)
    return Endpoint(
        f"http://{address}:{port}",
        None if direct_port is None else f"{'https' if secure else 'http'}://{address}:{direct_port}",
        None if flight_port is None else f"{'grpc+tls' if secure else 'grpc'}://{address}:{flight_port}",
        None
        if postgres_port is None
        else f"postgresql://{address}:{postgres_port}/{database}{'?sslmode=require' if secure else ''}",
    )


def stop() -> None:
    """Stop serving and disconnect from Ray: a local cluster ends, a joined cluster continues without the app."""
    if not ray.is_initialized():
        return
    with suppress(
        ray.serve.exceptions.RayServeException, TimeoutError
    ):  # no replica has started, or one does not answer
        ray.serve.get_app_handle(APP).broadcast("end_subscriptions").results(timeout_s=_ENDS_S)
    ray.serve.delete(APP)  # the replicas answer what has begun
    ray.shutdown()  # also ends a local cluster


def _listen(host: str, port: int) -> None:
    """Start Serve's proxy; raise `RequestError` if the cluster's Serve already runs on another port."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    options = HTTPOptions(host=host, port=port)
    try:
        ray.serve.start(
            proxy_location="HeadOnly",
            http_options=options,
            controller_options=_CONTROLLER,
            logging_config=_QUIET,
        )
    except (TimeoutError, ray.exceptions.RayActorError) as error:
        raise UnavailableError(
            f"Ray Serve's proxy does not start on {host}:{port}",
            got=first_line(error),
            do="try again when the machine is less busy; Ray's logs name the cause",
        ) from error
    where = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    try:
        socket.create_connection((where, port), timeout=10).close()
    except OSError as error:
        raise RequestError(
            f"Ray Serve does not listen on {host}:{port}",
            got=error.strerror or str(error),
            do="this cluster's Serve was started with another port: use that port, or run `serve shutdown` first",
        ) from error


def _deploy(arguments: tuple[object, ...], numbers: Mapping[str, Any]) -> None:
    deployed = ray.serve.deployment(
        name="Server",
        **numbers,
        max_ongoing_requests=64,
        max_queued_requests=MOST_PREDICTIONS,  # beyond that, the proxy refuses requests
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=BusyError.retry_after_s),
        max_surge_percent=100,  # a replica ends when the one that replaces it answers
        max_constructor_retry_count=1,  # errors of a project are permanent
        health_check_period_s=5,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=_DRAINS_S,
        ray_actor_options=_actor_options(),
    )(ray.serve.ingress()(Server))
    try:
        ray.serve.run(deployed.bind(*arguments), name=APP, route_prefix="/", logging_config=_QUIET)
    except RuntimeError as error:
        application = ray.serve.status().applications.get(APP)
        message = str(error) if application is None else application.deployments["Server"].message
        raise SettingsError(
            "the replicas do not start",
            got=message.strip().rpartition("\n")[2],
            do="check that the variables named in the settings are set where Ray was started",
        ) from error


def _actor_options() -> dict[str, Any]:
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    # no CPU is reserved: a replica limits its own threads, and concurrent runs need the cores
    options: dict[str, Any] = {"num_cpus": 0, "resources": {f"node:{address}": 0.001}}
    ours = {name: value for name, value in os.environ.items() if name.startswith("HEADWATER_")}
    return options | ({"runtime_env": {"env_vars": ours}} if ours else {})


def _require_ports(host: str, ports: Sequence[int]) -> None:
    """Raise `RequestError` unless these ports differ, and a server can listen on each now."""
    for port in ports:
        _require_free(host, port)
    if len(set(ports)) < len(ports):
        got = f"{max(ports, key=ports.count)}"
        raise RequestError(
            "the replicas cannot listen on the port of the proxy, or twice on one", got=got, do="choose another port"
        )


def _require_free(host: str, port: int) -> None:
    """Raise `RequestError` unless a server can listen on this address now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise RequestError(
                f"cannot listen on {host}:{port}",
                got=getattr(error, "strerror", None) or str(error),
                do="choose another address or port, or stop the process that listens there",
            ) from error
