"""`headwater cluster`: the state of a Ray cluster, and a local cluster to try things out."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import grid, open_settings, out, print_json
from cluster.cli.options import HERE, Env, Folder, Json
from cluster.local.head import LocalCluster, LocalNodes, read, start, stop
from cluster.status import ClusterState, cluster_state
from pipeline.core.errors import RequestError, quantity
from pipeline.core.settings import Settings

app = typer.Typer(
    help="Show what runs ask of a Ray cluster, and what it costs; start and stop a local cluster.", no_args_is_help=True
)
_NODE_ID = re.compile(r"(?<=node_)([0-9a-f]{8})[0-9a-f]{24,}")
"""The id of a node, which Ray has as its type in a cluster without an autoscaler."""
Address = Annotated[str | None, typer.Option(help="Address of the cluster, HOST:PORT (default: RAY_ADDRESS).")]


@app.command()
def status(address: Address = None, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Show the nodes of a cluster, what running steps ask of it and why, and its cost per hour."""
    settings = open_settings(folder, env)
    state = cluster_state(_address(address, settings), settings.cluster.cost_per_hour)
    if as_json:
        print_json({**asdict(state), "cost_per_hour": state.cost_per_hour})
    else:
        print_state(state)


@app.command("start")
def start_(
    nodes: Annotated[int, typer.Option(min=1, help="Maximum number of nodes.")] = 3,
    min_nodes: Annotated[int, typer.Option(min=0, help="Number of nodes without work.")] = 0,
    cpus: Annotated[int, typer.Option(min=1, help="Cores of a node.")] = 1,
    memory: Annotated[int, typer.Option(min=1 << 28, help="Memory of a node, in bytes.")] = 1 << 30,
    idle: Annotated[float, typer.Option(min=1, help="Seconds after which a node without work is stopped.")] = 30.0,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Start a cluster on this machine, whose nodes are processes. Ray's autoscaler starts and stops them."""
    if min_nodes > nodes:
        raise RequestError("--min-nodes is larger than --nodes", got=f"{min_nodes} and {nodes}")
    settings = open_settings(folder, env)
    cluster = start(_folder(settings), LocalNodes(min_nodes, nodes, cpus, memory, idle))
    if as_json:
        print_json(cluster.environ)
        return
    size = f"{min_nodes} to {quantity(nodes, 'node')} of {quantity(cpus, 'core')}"
    out.print(f"the cluster is running: {size}, dashboard {cluster.jobs}", soft_wrap=True)
    out.print("[dim]submit to it:            headwater submit --wait run")
    out.print('[dim]run on it in this shell: eval "$(headwater cluster environment)"')


@app.command("stop")
def stop_(env: Env = None, folder: Folder = HERE) -> None:
    """Stop the local cluster and its nodes. What jobs have committed is kept."""
    stopped = stop(_folder(open_settings(folder, env)))
    out.print("the local cluster is stopped" if stopped else "no local cluster is running")


@app.command()
def environment(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Print the variables with which commands of a shell use the local cluster."""
    cluster = local_cluster(open_settings(folder, env))
    if cluster is None:
        raise RequestError("no local cluster is running", do="start one: headwater cluster start")
    if as_json:
        print_json(cluster.environ)
        return
    for name, value in cluster.environ.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def local_cluster(settings: Settings) -> LocalCluster | None:
    """Return the running local cluster of a project, if there is one."""
    cluster = read(_folder(settings))
    return cluster if cluster is not None and cluster.is_running else None


def use(cluster: LocalCluster) -> None:
    """Let this process use a local cluster, before Ray is imported."""
    os.environ.update(cluster.environ)


def _folder(settings: Settings) -> Path:
    return settings.state / "cluster"


def _address(address: str | None, settings: Settings) -> str:
    """Return the given address, or that of RAY_ADDRESS, or that of the local cluster."""
    found = address or settings.ray_address
    if found:
        return found
    cluster = local_cluster(settings)
    if cluster is None:
        raise RequestError("the address of the cluster is not known", do="pass --address HOST:PORT, or set RAY_ADDRESS")
    use(cluster)
    return cluster.address


def print_state(state: ClusterState) -> None:
    """Print the nodes of a cluster, their cost, and what is asked of it. Ids of nodes are shortened."""
    rows = [
        (
            _NODE_ID.sub(r"\1…", node.type) or "-",
            node.state,
            f"{node.used_cpus:g} of {node.cpus:g}" if node.state != "starting" else "",
            f"{node.memory_bytes / 1e9:,.1f} GB" if node.state != "starting" else "",
            None if node.cost_per_hour is None else f"{node.cost_per_hour:,.2f}",
        )
        for node in state.nodes
    ]
    grid(
        None,
        ("node", "state", "cores in use", "memory", "cost per hour"),
        rows,
        right="cores in use, memory, cost per hour",
    )
    cost = state.cost_per_hour
    if cost is not None and any(node.cost_per_hour is not None for node in state.nodes):
        out.print(f"all nodes together cost {cost:,.2f} per hour")
    for kind, reason in state.failed_starts.items():
        out.print(f"[red]a node of type {kind!r} could not be started:[/] {reason}", soft_wrap=True)
    for each in state.asked:
        out.print(f"{each.name} asks for {quantity(each.slots * each.cpus, 'core')}: {each.reason}", soft_wrap=True)
    if not state.asked:
        out.print("no step asks for cores")
    if state.waiting_tasks:
        out.print(
            f"{quantity(state.waiting_tasks, 'task')} {'wait' if state.waiting_tasks != 1 else 'waits'} for a node"
        )
