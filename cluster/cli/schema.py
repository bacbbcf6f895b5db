"""`headwater schema`: the schema registry of the project's catalog, or one on a server."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from cluster.cli.console import err, grid, open_workspace, out, print_json, text
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.errors import RequestError, few
from pipeline.schema_registry.compatibility import problems_with
from pipeline.schema_registry.registry import RegisteredSchema, SchemaRegistry
from pipeline.schema_registry.remote import RemoteRegistry
from pipeline.schema_registry.schemas import SUFFIXES, SchemaText

app = typer.Typer(help="List, show, compare, check and register schemas; serve the registry.", no_args_is_help=True)
REFUSED = 3

Subject = Annotated[str, typer.Argument(help="The name of a subject, such as orders-value.")]
File = Annotated[Path, typer.Argument(help="A file with a schema: .avsc, .json (JSON Schema) or .proto.")]

Server = Annotated[
    str | None,
    typer.Option(
        "--registry",
        help="The URL of a registry on a server, http(s)://[USER@]HOST, instead of that of the project.",
        show_default=False,
    ),
]
Password = Annotated[
    str | None, typer.Option(help="The password of a registry on a server: env:NAME or file:PATH.", show_default=False)
]
AnyRegistry = SchemaRegistry | RemoteRegistry


@app.command()
def ls(
    server: Server = None,
    password: Password = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """List the subjects with their newest versions and their compatibility."""
    with _registry(server, password, folder, env) as registry:
        found = [registry.version(subject, "latest") for subject in registry.subjects()]
        levels = {each.subject: registry.level(each.subject) for each in found}
    if as_json:
        print_json([{**_plain(each, server), "compatibility": levels[each.subject]} for each in found])
    elif found:
        rows = [(e.subject, e.version, e.id, e.schema.type, levels[e.subject]) for e in found]
        grid(None, ("subject", "version", "id", "type", "compatibility"), rows, right="version, id")
    else:
        out.print("no schema is registered")


@app.command()
def show(
    subject: Subject,
    version: Annotated[
        int | None, typer.Argument(help="A version (default: the newest).", min=1, show_default=False)
    ] = None,
    server: Server = None,
    password: Password = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show the schema of a subject."""
    with _registry(server, password, folder, env) as registry:
        found = registry.version(subject, version or "latest")
    if as_json:
        print_json({**_plain(found, server), "schema": found.schema.text})
        return
    err.print(f"[dim]{text(subject)} version {found.version}, id {found.id}, {found.schema.type}[/]")
    out.print("\n".join(_lines(found)), markup=False, highlight=False, soft_wrap=True)


@app.command()
def history(
    subject: Subject,
    server: Server = None,
    password: Password = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """List the versions of a subject, and what reads data of the version before."""
    with _registry(server, password, folder, env) as registry:
        versions = registry.versions(subject, is_deleted=True)
        rows = [(each, _compared(registry, versions[at - 1] if at else None, each)) for at, each in enumerate(versions)]
    if as_json:
        print_json([{**_plain(each, server), "is_deleted": each.is_deleted, "change": change} for each, change in rows])
        return
    cells = [(e.version, e.id, change, "deleted" if e.is_deleted else "") for e, change in rows]
    grid(None, ("version", "id", "change", ""), cells, right="version, id")


@app.command()
def diff(
    subject: Subject,
    old: Annotated[
        int | None, typer.Argument(help="The earlier version (default: the one before).", min=1, show_default=False)
    ] = None,
    new: Annotated[
        int | None, typer.Argument(help="The later version (default: the newest).", min=1, show_default=False)
    ] = None,
    server: Server = None,
    password: Password = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Compare two versions of a subject."""
    with _registry(server, password, folder, env) as registry:
        after = registry.version(subject, new or "latest", is_deleted=new is not None)
        if old is None:
            earlier = [each.version for each in registry.versions(subject) if each.version < after.version]
            if not earlier:
                problem = f"subject {subject!r} has no version before {after.version}"
                raise RequestError(problem, do="show it: schema show")
            old = earlier[-1]
        before, new = registry.version(subject, old, is_deleted=True), after.version
        change = _compared(registry, before, after)
    lines = list(difflib.unified_diff(_lines(before), _lines(after), f"version {old}", f"version {new}", lineterm=""))
    if as_json:
        print_json({"subject": subject, "old": old, "new": new, "change": change, "lines": lines})
        return
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    out.print(f"[bold]{change}[/]")


@app.command()
def check(
    subject: Subject,
    file: File,
    server: Server = None,
    password: Password = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Check whether a schema can be the next version of a subject. Exits with 3 if it cannot."""
    schema = _read(file)
    with _registry(server, password, folder, env) as registry:
        problems = registry.problems(subject, schema)
        level = registry.level(subject)
    if as_json:
        print_json({"subject": subject, "compatibility": level, "problems": problems})
    elif not problems:
        out.print(f"[green]✓[/] the schema is compatible with {text(subject)} ({level})")
    for problem in () if as_json else problems:
        err.print(f"[red]✗[/] {text(problem)}")
    if problems:
        raise typer.Exit(REFUSED)


@app.command()
def register(
    subject: Subject,
    file: File,
    server: Server = None,
    password: Password = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Register a schema as the next version of a subject."""
    schema = _read(file)
    with _registry(server, password, folder, env) as registry:
        found = registry.register(subject, schema)
    if as_json:
        print_json(_plain(found, server))
    else:
        out.print(f"{text(subject)} version {found.version} has the id {found.id}")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8081,
    env: Env = None,
    folder: Folder = HERE,
) -> None:
    """Serve the registry by the REST interface of Confluent's, until Ctrl-C. It has no authentication."""
    import uvicorn  # noqa: PLC0415 - an optional dependency

    from serve.schema_registry import registry_app  # noqa: PLC0415 - likewise

    app_ = registry_app(SchemaRegistry(open_workspace(folder, env).catalog))
    err.print(f"serving the schema registry at http://{host}:{port}; press Ctrl-C to stop")
    uvicorn.run(app_, host=host, port=port, log_level="warning")


@contextmanager
def _registry(server: str | None, password: str | None, folder: Path, env: str | None) -> Iterator[AnyRegistry]:
    """Yield the registry on a server, or that of the project."""
    if server is None:
        if password is not None:
            raise RequestError("--password belongs to --registry", do="give both, or neither")
        yield SchemaRegistry(open_workspace(folder, env).catalog)
    else:
        with RemoteRegistry(server, password) as registry:
            yield registry


def _read(file: Path) -> SchemaText:
    kind = SUFFIXES.get(file.suffix)
    if kind is None:
        raise RequestError(
            f"the type of {str(file)!r} is unknown", do=f"name it {few(f'NAME{each}' for each in SUFFIXES)}"
        )
    try:
        return SchemaText(file.read_text(encoding="utf-8"), kind)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the schema {str(file)!r} cannot be read", got=str(error)) from error


def _lines(found: RegisteredSchema) -> Sequence[str]:
    if found.schema.type == "PROTOBUF":
        return found.schema.text.splitlines()
    return json.dumps(json.loads(found.schema.text), indent=2, ensure_ascii=False).splitlines()


def _compared(registry: AnyRegistry, before: RegisteredSchema | None, after: RegisteredSchema) -> str:
    """Return in words whether either of two versions reads data of the other."""
    if before is None:
        return "first version"
    both = {
        level: problems_with(level, registry.parsed(after), [(before.version, registry.parsed(before))])
        for level in _WAYS
    }
    ways = [name for level, name in _WAYS.items() if not both[level]]
    return {0: "incompatible", 2: "backward and forward compatible"}.get(len(ways), f"{''.join(ways)} compatible")


_WAYS: dict[Literal["BACKWARD", "FORWARD"], str] = {"BACKWARD": "backward", "FORWARD": "forward"}


def _plain(found: RegisteredSchema, server: str | None) -> dict[str, object]:
    """Return the facts about a version; other registries compute a guid in another way."""
    facts = {
        "subject": found.subject,
        "version": found.version,
        "id": found.id,
        "type": found.schema.type,
    }
    return facts if server is not None else {**facts, "guid": found.schema.guid}
