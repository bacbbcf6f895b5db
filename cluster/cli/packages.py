"""The packages that Headwater and its extras require, compared with the installed ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement

PACKAGE = "headwater"
_COLLECTIONS = frozenset({"all", "dev"})
"""Extras that only combine others, or are not for users."""


def requirements() -> Mapping[str, Sequence[Requirement]] | None:
    """Return the requirements of each extra, and those of the package under an empty name; `None` if it is not installed."""
    if problems_of([Requirement(PACKAGE)]):
        return None
    extras = [extra for extra in metadata(PACKAGE).get_all("Provides-Extra") or () if extra not in _COLLECTIONS]
    required: dict[str, list[Requirement]] = {name: [] for name in ("", *extras)}
    for requirement in map(Requirement, requires(PACKAGE) or ()):
        marker = requirement.marker
        for extra in required if requirement.name != PACKAGE else ():
            if marker is None if not extra else marker is not None and marker.evaluate({"extra": extra}):
                required[extra].append(requirement)
    return required


def problems_of(required: Iterable[Requirement]) -> list[str]:
    """Return why requirements are not met, one text for each that is not."""
    return [problem for requirement in required if (problem := _problem(requirement))]


def install_command(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install '{PACKAGE}[{extra}]'"


def _problem(requirement: Requirement) -> str:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed"
    is_met = requirement.specifier.contains(installed, prereleases=True)
    return "" if is_met else f"{requirement.name} {installed} is installed, {requirement.specifier} is required"
