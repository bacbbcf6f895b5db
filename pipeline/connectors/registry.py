"""Connectors of other packages, located by their entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, cast

from pipeline.core.errors import DefinitionError, did_you_mean
from pipeline.core.sources import Reader

GROUP = "headwater.connectors"
"""The entry point group in which installed packages register their connectors."""


def connector(name: str, **options: Any) -> Reader:
    """Return a reader of a connector that an installed package has registered.

        tickets = source(connector("tickets", url="https://desk.example.com"), schema={"id": "bigint"})

    The entry point's object is called with the options. Raises `DefinitionError` if no package registers the name, or
    if the connector cannot be imported or does not accept these options.
    """
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        advice = did_you_mean(name, known) if known else "install the package that provides it"
        raise DefinitionError(f"no installed package registers the connector {name!r}", do=advice)
    try:
        return cast("Reader", known[name].load()(**options))
    except (ImportError, AttributeError, TypeError) as error:
        raise DefinitionError(
            f"the connector {name!r} cannot be created", got=str(error), do=f"see {known[name].value}"
        ) from error
