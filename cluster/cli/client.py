"""`headwater client`: writes a typed client of a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import err
from pipeline.core.errors import RequestError
from pipeline.core.extras import imports_of


def client(
    url: Annotated[str, typer.Argument(help="The address of a server, for example http://127.0.0.1:8000.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write (default: standard output).", show_default=False)
    ] = None,
) -> None:
    """Write a client in TypeScript with the types of the tables, feature views and models that a key may use.

    The key is in the environment variable HEADWATER_API_KEY.
    """
    with imports_of("rest", "headwater client"):
        import httpx  # noqa: PLC0415 - an optional dependency

        from serve.typescript import typescript  # noqa: PLC0415 - likewise

    key = os.environ.get("HEADWATER_API_KEY", "")
    try:
        response = httpx.get(
            f"{url.rstrip('/')}/openapi.json", headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=30
        )
        response.raise_for_status()
        document = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise RequestError(f"{url} does not describe its endpoints", got=str(error).partition("\n")[0]) from error
    text = typescript(document, url)
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        err.print(f"[dim]written: {out}[/]")
