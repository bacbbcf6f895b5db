"""`headwater discover`: what a system contains, and definitions for it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.console import err, grid, open_settings, out, print_json, text
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.connectors.discovery.system import SystemAddress, discoverable
from pipeline.core.clients import message_of
from pipeline.core.discovery import DiscoveryLimits
from pipeline.core.errors import RequestError, StorageError
from pipeline.core.fingerprint import fingerprint
from pipeline.discovery.definitions import module
from pipeline.discovery.look import FORMAT, Look, ProfiledObject, changes_since, look_at

URI_HELP = (
    "A file, a folder, or a URI: s3://…, postgresql://…, mysql://…, mongodb://…, sqlite://…, duckdb://…, "
    "kafka://host/topic, nats://…, redis://…, iceberg+https://…, delta-sharing://PROFILE, https://…"
)
Uri = Annotated[str, typer.Argument(help=URI_HELP)]
Table = Annotated[str | None, typer.Option(help="Only this table, collection, topic or stream.")]
Password = Annotated[str | None, typer.Option(help="The password by reference: env:NAME or file:PATH.")]
Options = Annotated[list[str] | None, typer.Option("--option", help="NAME=VALUE, an option of the store.")]


def discover(
    uri: Uri,
    table: Table = None,
    password: Password = None,
    option: Options = None,
    rows: Annotated[int, typer.Option(help="Rows to sample of each object.", min=1)] = 1_000,
    size_bytes: Annotated[int, typer.Option("--bytes", help="Bytes to read of each object.", min=1)] = 8 << 20,
    objects: Annotated[int, typer.Option(help="Objects to look at.", min=1)] = 100,
    time_s: Annotated[float, typer.Option("--time", help="Seconds after which no other object is looked at.")] = 60,
    as_python: Annotated[bool, typer.Option("--python", help="Print definitions to paste.")] = False,
    compare: Annotated[
        Path | None, typer.Option(help="A file with the output of --json: print what changed since.")
    ] = None,
    since_last: Annotated[
        bool,
        typer.Option("--since-last", help="In a project: print what changed since the last look, and keep this one."),
    ] = False,
    as_json: Json = False,
    env: Env = None,
    folder: Folder = HERE,
) -> None:
    """Look at a system: schemas, keys, times, partitioning and likely personal data, from a bounded sample."""
    limits = DiscoveryLimits(rows, size_bytes, objects, time_s)
    look = look_at(discoverable(address_of(uri, table, password, option)), limits, time.monotonic)
    if since_last:
        kept = open_settings(folder, env).state / "looks" / f"{fingerprint(uri, table)}.json"
        _print_changes(_last(kept), look, as_json=as_json)
        _keep(look, kept)
    elif compare is not None:
        _print_changes(_earlier(compare), look, as_json=as_json)
    elif as_json:
        print_json(look.document())
    elif as_python:
        out.print(module(look.objects), markup=False, highlight=False, soft_wrap=True, end="")
    else:
        _print(look)


def address_of(uri: str, table: str | None, password: str | None, option: Sequence[str] | None) -> SystemAddress:
    """Return the address of a system from options; raise `RequestError` for an option without a value."""
    options: dict[str, str] = {}
    for each in option or ():
        name, mark, value = each.partition("=")
        if not mark:
            raise RequestError("an option is written NAME=VALUE", got=repr(each), do="write --option region=eu-west-1")
        options[name] = value
    named = {"table": table, "password": password}
    return SystemAddress(uri, {**options, **{name: value for name, value in named.items() if value is not None}})


def _print_changes(before: Mapping[str, Any] | None, look: Look, *, as_json: bool) -> None:
    changes = None if before is None else changes_since(before, look.document())
    if as_json:
        print_json({"changes": changes})
    elif changes is None:
        out.print("there was no earlier look; this one is kept")
    else:
        out.print("\n".join(map(text, changes)) or "nothing changed", soft_wrap=True)


def _keep(look: Look, path: Path) -> None:
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(look.document()), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise StorageError(f"the look cannot be kept in {path.parent}", got=message_of(error)) from error


def _last(path: Path) -> Mapping[str, Any] | None:
    """Return the look that was kept, or `None` if there is none that can be read: the new one replaces it."""
    if not path.is_file():
        return None
    try:
        return _earlier(path)
    except RequestError as error:
        err.print(f"[yellow]the earlier look is not used: {text(error.problem)}[/]", soft_wrap=True)
        return None


def _earlier(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read", got=str(error), do="write it with --json > FILE") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise RequestError(f"{path} is not a look of this version of Headwater", do="write it with --json > FILE")
    return document


def _print(look: Look) -> None:
    for each in look.objects:
        out.print(f"[bold]{text(each.discovered.name)}[/]  {text(', '.join(_facts(each)))}", soft_wrap=True)
        if each.sample is None:
            out.print(f"  [yellow]{text(each.problem)}[/]", soft_wrap=True)
        else:
            grid(None, ("column", "type", "missing", "values", "may be"), _rows(each), right="missing")
            for note in _candidates(each):
                out.print(f"  {text(note)}", soft_wrap=True)
        out.print()
    for note in look.notes:
        out.print(f"[dim]{text(note)}[/]", soft_wrap=True)


def _facts(each: ProfiledObject) -> list[str]:
    known, facts = each.discovered, [each.discovered.kind]
    if known.rows is not None:
        facts.append(f"about {known.rows:,} rows")
    if known.size_bytes:
        facts.append(f"{known.size_bytes / 1e6:,.1f} MB")
    return [*facts, *filter(None, [known.partitioning]), *known.notes]


def _rows(each: ProfiledObject) -> Iterable[Sequence[object]]:
    if each.sample is not None:
        for column in each.sample.columns:
            personal = column.personal
            kind = column.type if not column.suggested_type else f"{column.type} ({column.suggested_type} as text)"
            missing = f"{column.nulls / each.sample.rows:.0%}" if each.sample.rows and column.nulls else ""
            values = (
                column.cardinality
                if column.cardinality in {"empty", "unique"}
                else f"{column.cardinality}: {column.distinct:,}"
            )
            shown = "" if personal is None else f"{personal.confidence}: {personal.kind} (by {personal.why})"
            yield column.name, kind, missing, values, shown


def _candidates(each: ProfiledObject) -> list[str]:
    sample, notes = each.sample, []
    if sample is None:
        return []
    if each.discovered.key:
        notes.append(f"key: {', '.join(each.discovered.key)} (declared)")
    elif sample.keys:
        shown = "; ".join(", ".join(key) for key in sample.keys)
        notes.append(f"key candidates: {shown} (unique in {sample.rows:,} sampled rows)")
    if sample.event_times:
        notes.append(f"event time: {', '.join(sample.event_times)}")
    if sample.changed_at:
        notes.append(f"cursor: {sample.changed_at}")
    return notes
