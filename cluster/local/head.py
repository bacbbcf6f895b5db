"""The head node of a local cluster: started in the background, and stopped with all nodes."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.local.nodes import (
    AUTOSCALER,
    HEAD,
    LOOPBACK,
    OPTIONS,
    WORKER,
    end_group,
    end_recorded,
    has_ended,
    is_same,
    spawned,
    temporary,
)
from cluster.local.ports import unused_ports
from pipeline.core.errors import RequestError, UnavailableError
from pipeline.core.processes import started

_START_S, _END_S = 120.0, 10.0


@dataclass(frozen=True)
class LocalCluster:
    """A local cluster: how to reach it, and the process of its head."""

    name: str
    """The name of the head node."""
    address: str
    """The value of `RAY_ADDRESS`."""
    jobs: str
    """The address of the dashboard and of the Jobs API."""
    token_file: str
    pid: int
    started: str
    """The start time of the head's process, which identifies it."""

    @property
    def is_running(self) -> bool:
        """Whether the head is running."""
        return is_same(self.pid, self.started)

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables with which a process joins the cluster."""
        return {
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.jobs,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": self.token_file,
        }


@dataclass(frozen=True)
class LocalNodes:
    """The nodes that the autoscaler of a local cluster starts."""

    least: int = 0
    most: int = 3
    cpus: int = 1
    memory_bytes: int = 1 << 30
    idle_s: float = 30.0
    """How long a node stays without work."""


def start(folder: Path, nodes: LocalNodes) -> LocalCluster:
    """Start a cluster whose state is in a folder. Only clients with its token are accepted.

    What an earlier cluster left behind, because its head was killed, is stopped and removed.
    Raises `RequestError` if it is already running, and `UnavailableError` if it does not start.
    """
    known = read(folder)
    if known is not None and known.is_running:
        raise RequestError("the local cluster is already running", got=known.jobs, do="stop it: headwater cluster stop")
    stop(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / AUTOSCALER).unlink(missing_ok=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="ascii")
    name = f"{HEAD}-{secrets.token_hex(4)}"
    gcs, dashboard, agent = unused_ports(3)
    address, jobs = f"{LOOPBACK}:{gcs}", f"http://{LOOPBACK}:{dashboard}"
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *OPTIONS, f"--port={gcs}", "--num-cpus=0"),
        *("--include-dashboard=true", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard}"),
        f"--temp-dir={temporary(name)}",  # jobs join the cluster that was started last with the same folder
        *(f"--dashboard-agent-listen-port={agent}", f"--autoscaling-config={_configured(folder, address, nodes)}"),
    ]
    environ = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_NODE_TYPE_NAME": HEAD,
        "RAY_enable_autoscaler_v2": "1",
    }
    pid = spawned(command, environ, folder / "head.log")
    cluster = LocalCluster(name, address, jobs, str(token), pid, started(pid))
    (folder / "cluster.json").write_text(json.dumps(asdict(cluster)), encoding="utf-8")
    try:
        _wait(cluster, folder)
    except BaseException:
        stop(folder)
        raise
    return cluster


def stop(folder: Path) -> bool:
    """Stop the cluster of a folder with all of its nodes, also if its head was killed; return whether a node was running."""
    cluster = read(folder)
    if cluster is None:
        return False
    # not SIGTERM, after which Ray waits half a minute for its own actors
    were_running = [end_group(cluster.pid, cluster.started)]
    were_running += [end_recorded(file) for file in folder.glob("*.pid")]
    until = time.monotonic() + _END_S
    while not has_ended(cluster.pid) and cluster.is_running and time.monotonic() < until:
        time.sleep(0.05)
    shutil.rmtree(temporary(cluster.name), ignore_errors=True)
    return any(were_running)


def read(folder: Path) -> LocalCluster | None:
    """Return the cluster of a folder, running or not; `None` if there never was one."""
    try:
        return LocalCluster(**json.loads((folder / "cluster.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _configured(folder: Path, address: str, nodes: LocalNodes) -> Path:
    """Write the configuration of the autoscaler, and return its file."""
    worker = {"CPU": nodes.cpus, "memory": nodes.memory_bytes}
    commands = ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands")
    required: dict[str, Any] = {
        **{key: {} for key in ("head_node", "worker_nodes", "file_mounts")},
        "cluster_synced_files": [],
    }
    config: Mapping[str, Any] = {
        **required,
        **{key: [] for key in commands},
        "cluster_name": "headwater-local",
        "max_workers": nodes.most,
        "idle_timeout_minutes": nodes.idle_s / 60,
        "provider": {
            "type": "external",
            "module": "cluster.local.provider.LocalNodeProvider",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": address,
            "folder": str(folder),
            "node_types": {WORKER: {"resources": worker, "max_count": nodes.most}},
        },
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            WORKER: {"resources": worker, "node_config": {}, "min_workers": nodes.least, "max_workers": nodes.most},
        },
    }
    file = folder / "autoscaler.yaml"
    file.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return file


def _wait(cluster: LocalCluster, folder: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and not has_ended(cluster.pid):
        if not (folder / AUTOSCALER).exists():
            time.sleep(0.2)
            continue
        try:
            with urllib.request.urlopen(f"{cluster.jobs}/api/version", timeout=5):  # noqa: S310 - a loopback address
                return
        except urllib.error.HTTPError:
            return  # it answers, and asks for the token
        except OSError:
            time.sleep(0.2)
    raise UnavailableError("the local cluster did not start", do=f"see {folder}/head.log")
