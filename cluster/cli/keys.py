"""`headwater keys`: the keys of the callers of endpoints."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import err, grid, open_project, open_workspace, out, print_json, text
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.errors import DefinitionError, Place, RequestError
from pipeline.core.event_time import parse_duration
from pipeline.governance.api_keys import SCOPES, ApiKeys, CallerKey

app = typer.Typer(help="Create, list, rotate and revoke the keys of the callers of endpoints.", no_args_is_help=True)

Roles = Annotated[
    list[str] | None, typer.Option("--role", help="A role of access policies; repeatable.", show_default=False)
]
Scopes = Annotated[
    list[str] | None,
    typer.Option(
        "--scope",
        help=f"What the key may do: {', '.join(SCOPES)}, optionally with names as in read:orders; repeatable (default: read).",
        show_default=False,
    ),
]
Claims = Annotated[
    list[str] | None,
    typer.Option(
        "--claim", help="What access policies know of the caller, as NAME=VALUE; repeatable.", show_default=False
    ),
]
Expires = Annotated[
    str | None, typer.Option("--expires", help="How long the key is valid, for example '90 days'.", show_default=False)
]
SharingProfile = Annotated[
    Path | None,
    typer.Option(
        help="Write a profile of Delta Sharing with the key to this file, and do not print the key.", show_default=False
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        help="The address of the server in the profile (default: public_url of the settings, or http://127.0.0.1:8000).",
        show_default=False,
    ),
]
Named = Annotated[str, typer.Argument(help="The id of a key, or its name.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The application or the person that uses the key.")],
    role: Roles = None,
    scope: Scopes = None,
    claim: Claims = None,
    expires: Expires = None,
    sharing_profile: SharingProfile = None,
    url: Url = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Create a key and print it. It cannot be read again: the catalog has only its SHA-256."""
    if url is not None and sharing_profile is None:
        raise RequestError("--url needs --sharing-profile", do="name the file of the profile")
    if sharing_profile is not None and sharing_profile.exists():
        raise RequestError("the file of the profile exists", got=str(sharing_profile), do="name another, or remove it")
    with _keys(folder, env) as keys:
        key_text, key = keys.create(
            name,
            roles=role or (),
            scopes=scope or ("read",),
            claims=_claims(claim or []),
            expires_in=None if expires is None else _duration(expires, "--expires"),
        )
    if sharing_profile is None:
        _print_new(key_text, key, as_json=as_json)
        return
    address = url or open_project(folder, env).settings.serve.public_url or "http://127.0.0.1:8000"
    _write_profile(sharing_profile, address, key_text, key)
    err.print(f"key {key.id} {text(key.name)!r} is in {text(str(sharing_profile))}")


@app.command()
def ls(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List the keys: what they may do, and when they were used last, to about half a minute."""
    with _keys(folder, env) as keys:
        found = keys.all()
    now = time.time()
    if as_json:
        print_json([_plain(key, now) for key in found])
        return
    if not found:
        out.print("there are no keys; create one with `headwater keys create NAME`")
        return
    columns = ("id", "name", "roles", "scopes", "claims", "ends", "state", "expires", "last used")
    rows = [
        (
            key.id,
            key.name,
            ", ".join(key.roles),
            ", ".join(key.scopes),
            ", ".join(f"{name}={_listed(value)}" for name, value in key.claims.items()),
            f"…{key.last_four}",
            key.state(now),
            _day(key.expires_at),
            _day(key.last_used_at),
        )
        for key in found
    ]
    grid(None, columns, rows)


@app.command()
def rotate(
    key: Named,
    grace: Annotated[str, typer.Option(help="How long the old key stays valid.")] = "24 hours",
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Create a key like another one, which stays valid for a while."""
    with _keys(folder, env) as keys:
        key_text, new = keys.rotate(key, grace=_duration(grace, "--grace"))
    _print_new(key_text, new, as_json=as_json)


@app.command()
def revoke(key: Named, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Make a key invalid. Running servers refuse it within a second."""
    with _keys(folder, env) as keys:
        revoked = keys.revoke(key)
    if as_json:
        print_json(_plain(revoked, time.time()))
    else:
        out.print(f"key {revoked.id} of {text(revoked.name)} is revoked")


@contextmanager
def _keys(folder: Path, env: str | None) -> Iterator[ApiKeys]:
    workspace = open_workspace(folder, env)
    try:
        yield ApiKeys(workspace.catalog, workspace.settings.env)
    finally:
        workspace.catalog.close()


def _print_new(key_text: str, key: CallerKey, *, as_json: bool) -> None:
    if as_json:
        print_json({"key": key_text, **_plain(key, time.time())})
        return
    typer.echo(key_text)
    err.print(
        f"[dim]key {key.id} of {text(key.name)}; it cannot be shown again. Send it as: Authorization: Bearer KEY[/]"
    )


def _write_profile(file: Path, address: str, key_text: str, key: CallerKey) -> None:
    """Write a profile that only its owner can read; Delta Sharing's protocol defines its members."""
    profile: dict[str, object] = {
        "shareCredentialsVersion": 1,
        "endpoint": f"{address.rstrip('/')}/v1/sharing/",
        "bearerToken": key_text,
    }
    if key.expires_at is not None:
        profile["expirationTime"] = f"{datetime.fromtimestamp(key.expires_at, UTC):%Y-%m-%dT%H:%M:%SZ}"
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        json.dump(profile, stream, indent=2)


def _plain(key: CallerKey, now: float) -> dict[str, object]:
    times = {"created_at": key.created_at, "expires_at": key.expires_at, "last_used_at": key.last_used_at}
    return {
        "id": key.id,
        "name": key.name,
        "roles": key.roles,
        "scopes": key.scopes,
        "claims": dict(key.claims),
        "state": key.state(now),
        **{name: None if at is None else datetime.fromtimestamp(at, UTC) for name, at in times.items()},
    }


def _claims(pairs: list[str]) -> dict[str, str | tuple[str, ...]]:
    values: dict[str, tuple[str, ...]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise RequestError("--claim takes NAME=VALUE", got=repr(pair))
        values[name] = (*values.get(name, ()), value)
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _listed(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else "|".join(value)


def _duration(value: str, option: str) -> timedelta:
    try:
        return parse_duration(value, option, Place(""))
    except DefinitionError as error:
        raise RequestError(f"{option} takes a duration such as '90 days'", got=repr(value)) from error


def _day(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
