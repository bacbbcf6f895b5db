"""`headwater sources`: the connectors, and what they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from cluster.cli.console import grid, open_settings, print_json
from cluster.cli.options import HERE, Env, Folder, Json
from cluster.cli.packages import install_command, problems_of, requirements
from pipeline.connectors.built_in import BUILT_IN, BuiltIn
from pipeline.connectors.registry import GROUP
from pipeline.core.errors import SettingsError
from pipeline.core.settings import find

if TYPE_CHECKING:
    from pipeline.governance import SystemRecord


def sources(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List the connectors: what they read, how they deliver, what they were tested against, and what is not installed.

    In a project, also show the systems that runs have called: calls, failures, and the state of the circuit breaker.
    """
    systems = _systems(folder, env)
    required = requirements()
    missing = {connector.name: _missing(connector, required) for connector in BUILT_IN}
    others = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    if as_json:
        ours = [{**asdict(connector), "missing_extras": missing[connector.name]} for connector in BUILT_IN]
        connectors = [*ours, *({"name": entry.name, "package": entry.value} for entry in others)]
        print_json({"connectors": connectors, "systems": systems})
        return
    rows = [
        (
            f"{connector.name}(…)",
            connector.reads,
            connector.delivery,
            connector.tested_against or "not tested here",
            ", ".join(map(install_command, missing[connector.name])) or "installed",
        )
        for connector in BUILT_IN
    ]
    rows += [(f"connector({entry.name!r}, …)", f"see {entry.value}", "", "", "installed") for entry in others]
    grid(None, ("connector", "reads", "delivery", "tested against", "needs"), rows)
    if systems:
        shown = [(s.name, s.calls, s.failures, s.state, _pause(s), s.at[:19]) for s in systems]
        columns = ("system", "calls", "failures", "circuit breaker", "asked to wait", "at")
        grid("Systems at the end of the last run that called them", columns, shown, right="calls, failures")


def _systems(folder: Path, env: str | None) -> tuple[SystemRecord, ...]:
    try:
        find(folder)
    except SettingsError:  # not in a project
        return ()
    from pipeline.governance import Catalog  # noqa: PLC0415 - only in a project

    return Catalog(open_settings(folder, env).catalog).systems()


def _pause(system: SystemRecord) -> str:
    return f"{system.paused_s:,.0f} s" if system.paused_s else ""


def _missing(connector: BuiltIn, required: Mapping[str, Sequence[Requirement]] | None) -> list[str]:
    """Return the extras of a connector that are not installed; none if the requirements are unknown."""
    if required is None:
        return []
    return [extra for extra in connector.extras if problems_of(required.get(extra, ()))]
