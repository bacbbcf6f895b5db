"""`headwater add`: a definition of a source, from a look at its system."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cluster.cli.console import open_settings, out, text
from cluster.cli.discover import URI_HELP, Options, Password, Table, address_of
from cluster.cli.options import HERE, Env, Folder
from pipeline.connectors.built_in import BUILT_IN, BuiltIn
from pipeline.connectors.discovery.system import SystemAddress, discoverable
from pipeline.connectors.templates import TEMPLATES
from pipeline.core.credentials import is_reference
from pipeline.core.discovery import DiscoveryLimits, ReaderCall, matching_names
from pipeline.core.errors import RequestError, SourceError, did_you_mean, few
from pipeline.core.settings import Settings
from pipeline.discovery.definitions import definition
from pipeline.discovery.look import ProfiledObject, profile_of
from pipeline.project.additions import add_definition

_MOST_OBJECTS = 1_000
_LOCAL = {"files", "sqlite", "duckdb_file", "delta_table", "delta_sharing"}
"""The connectors whose first argument may be a path, which is relative to the project's folder."""


def add(
    source: Annotated[
        str,
        typer.Argument(
            help="The connector, as `headwater sources` lists it, such as postgres. It can be left out if only one reads the URI."
        ),
    ],
    uri: Annotated[str | None, typer.Argument(help=URI_HELP, show_default=False)] = None,
    table: Table = None,
    name: Annotated[str | None, typer.Option(help="The name of the source; by default raw_ and the table.")] = None,
    cursor: Annotated[str | None, typer.Option(help="The column that says what is new.")] = None,
    password: Password = None,
    option: Options = None,
    env: Env = None,
    folder: Folder = HERE,
) -> None:
    """Add a source to the project: look at its system, write the definition, and check that the project loads.

    What cannot be looked at, such as a queue, is added as a template, in which the columns are to be replaced.
    """
    connector, location = _named(source, uri)
    settings = open_settings(folder, env)
    if connector is not None and not _built_in(connector).is_discoverable:
        _add_template(connector, location, _TemplateOptions(table, name, password), cursor or option, settings)
        return
    if location is None:
        raise RequestError(
            f"{connector}(…) is a connector, and it is not said what it reads",
            do=f"write headwater add {connector} URI; {_page(connector or '')} shows what a URI is",
        )
    looked_at = _only(connector, address_of(location, table, password, option))
    variable = name or looked_at.variable()
    if not variable.isidentifier():
        raise RequestError(f"{variable!r} is not a name of a definition", do="choose another name: --name")
    call = _in_project(looked_at.discovered.reader, settings)
    if cursor is not None:
        _require_column(looked_at, cursor)
        call = call.having(cursor=cursor)
    added = replace(looked_at, discovered=replace(looked_at.discovered, reader=call))
    path = add_definition(settings, variable, ("source", call.function), definition(added, variable))
    _print_added(variable, path, "next")


def _print_added(variable: str, path: Path, then: str) -> None:
    shown = os.path.relpath(path)
    out.print(
        f"added [bold]{text(variable)}[/] to {text(shown)}; {then}:\n\n    headwater run --select {text(variable)}\n"
    )


@dataclass(frozen=True)
class _TemplateOptions:
    """The options of the command that a template may have a place for."""

    table: str | None
    name: str | None
    password: str | None


def _add_template(
    connector: str, uri: str | None, options: _TemplateOptions, others: object, settings: Settings
) -> None:
    """Add a definition that loads, with the columns of an example."""
    template = TEMPLATES.get(connector)
    if template is None:
        raise RequestError(f"{connector}(…) reads no system that could be added", do=_written(connector))
    if others:
        problem = f"{connector}(…) is added as a template, without --cursor and --option"
        raise RequestError(problem, do="write them in the definition")
    if uri is not None and urlsplit(uri).password:
        raise RequestError("the URI contains a password", do="pass it by reference: --password env:NAME")
    variable = options.name or f"raw_{connector}"
    if not variable.isidentifier():
        raise RequestError(f"{variable!r} is not a name of a definition", do="choose another name: --name")
    code = template.filled(variable, uri, options.table, options.password)
    path = add_definition(settings, variable, (*template.functions, connector), code)
    _print_added(variable, path, f"correct its columns and its options, which {_page(connector)} describes, then")


def _named(first: str, second: str | None) -> tuple[str | None, str | None]:
    """Return the connector, if it is named, and the URI; raise `RequestError` for a connector that does not exist."""
    known = [connector.name for connector in BUILT_IN]
    if second is not None and first not in known and second in known:
        first, second = second, first
    if second is None:
        if first in known:
            return first, None
        if "://" not in first and not Path(first).exists() and not set(first) & set("/.*"):
            raise RequestError(f"there is no connector and no file {first!r}", do=did_you_mean(first, known))
        return None, first
    if first not in known:
        raise RequestError(f"there is no connector {first!r}", do=did_you_mean(first, known))
    return first, second


def _built_in(name: str) -> BuiltIn:
    return next(connector for connector in BUILT_IN if connector.name == name)


def _page(source: str) -> str:
    return os.path.normpath(f"docs/connectors/{_built_in(source).page or 'README.md'}")


def _written(source: str) -> str:
    return f"write its definition, as {_page(source)} shows"


def _only(source: str | None, address: SystemAddress) -> ProfiledObject:
    """Return the object that was asked for, with a profile; raise `RequestError` if there are several."""
    system, limits = discoverable(address), DiscoveryLimits(objects=_MOST_OBJECTS)
    wanted = address.options.get("table", "")
    objects = system.objects(limits)
    readers = sorted({each.reader.function for each in objects})
    if source is None and len(readers) > 1:
        raise RequestError(
            f"several connectors read what is at {system.uri}",
            got=few(readers),
            do=f"choose one: headwater add {readers[0]} {system.uri}",
        )
    every = {each.name: each for each in objects if source in {None, each.reader.function}}
    fit = [every[name] for name in matching_names(every, wanted)]
    if not fit:
        raise RequestError(
            f"{source}(…) reads nothing that is at {system.uri}" if source else f"there is nothing at {system.uri}",
            do=f"see what is there: headwater discover {system.uri}",
        )
    if len(fit) > 1:
        raise RequestError(
            f"there are {len(fit)} objects at {system.uri}",
            got=few(each.name for each in fit),
            do="choose one: --table NAME, or a more specific URI",
        )
    profiled = profile_of(system, fit[0], limits)
    if profiled.sample is None:
        raise SourceError(f"{fit[0].name!r} cannot be looked at", got=profiled.problem, do="write its definition")
    return profiled


def _require_column(each: ProfiledObject, cursor: str) -> None:
    columns = [] if each.sample is None else [column.name for column in each.sample.columns]
    if cursor not in columns:
        raise RequestError(f"there is no column {cursor!r}", do=did_you_mean(cursor, columns))


def _in_project(call: ReaderCall, settings: Settings) -> ReaderCall:
    """Return the call with a path relative to the project's folder."""
    first = str(call.arguments[0])
    if call.function not in _LOCAL or "://" in first or is_reference(first):
        return call
    path = Path(os.path.relpath(Path(first).absolute(), settings.root))
    return replace(call, arguments=(path.as_posix(), *call.arguments[1:]))
