"""Holds of savepoints, registered artifacts and sinks: which are placed under which id, and which nothing needs any more."""

from __future__ import annotations

from pipeline.core.definitions import Artifact
from pipeline.core.sinks import Sink
from pipeline.lake import Storage
from pipeline.lake.holds import holds, release_hold
from pipeline.project.workspace import Workspace

SAVEPOINTS = "_headwater/savepoints"
"""The folder of savepoints, relative to the table."""
_SINK, _ARTIFACT, _SAVEPOINT = "sink-", "model-", "savepoint-"


def sink_hold(name: str) -> str:
    """Return the id of the hold of the version that a sink has published."""
    return f"{_SINK}{name}"


def artifact_hold(name: str, version: str) -> str:
    """Return the id of the holds of the versions that a registered version of an artifact was built from."""
    return f"{_ARTIFACT}{name}-{version}"


def savepoint_hold(label: str) -> str:
    """Return the id of the hold of a savepoint."""
    return f"{_SAVEPOINT}{label}"


def savepoint_file(label: str) -> str:
    """Return the file that completes a savepoint, relative to the table."""
    return f"{SAVEPOINTS}/{label}/savepoint.json"


def incomplete_savepoints(storage: Storage) -> frozenset[str]:
    """Return the labels that have a hold and no savepoint: their process was killed, or is about to complete them."""
    held = {hold.id.removeprefix(_SAVEPOINT) for hold in holds(storage) if hold.id.startswith(_SAVEPOINT)}
    return frozenset(label for label in held if not storage.has(savepoint_file(label)))


def release_holds(workspace: Workspace, table: str) -> None:
    """Release the holds of a table for what no longer exists: sinks, registered versions of models, and savepoints.

    A savepoint that is being completed places its hold again.
    An artifact of the project tells which versions are registered, also of those that are no longer defined; in a project
    without artifacts, their holds stay. Raises `StorageError` if the store of models cannot be read.
    """
    storage, graph = workspace.table(table).storage, workspace.project.graph
    sinks = {sink_hold(each.name) for each in graph.all_of(Sink) if each.table == table}
    tellers = {type(each): each for each in graph.all_of(Artifact)}.values()
    for label in incomplete_savepoints(storage):
        release_hold(storage, savepoint_hold(label))
    for hold in holds(storage):
        if hold.id.startswith(_SINK) and hold.id not in sinks:
            release_hold(storage, hold.id)
        elif hold.id.startswith(_ARTIFACT):
            name, _, number = hold.id.removeprefix(_ARTIFACT).rpartition("-")
            registered = [each.registered(workspace.settings.models, name) for each in tellers]
            known = [each for each in registered if each is not None]
            if known and not any(number in each for each in known):
                release_hold(storage, hold.id)
