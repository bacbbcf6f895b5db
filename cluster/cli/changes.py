"""What `plan` and `apply` commands share: the exit code of a difference, and the question before something is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from cluster.cli.console import err
from pipeline.core.errors import RequestError, few

DIFFERENT = 3
"""The exit code of a plan with changes."""
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before something is taken away.")]


def require_consent(lost: Sequence[str], what: str, *, yes: bool, as_json: bool) -> None:
    """Ask before something is lost, unless there is nothing, or `--yes` is given; without a terminal, raise `RequestError`.

    `what` says in the plural what happens: "changes would take something away".
    """
    if not lost or yes:
        return
    if as_json or not err.is_terminal:
        raise RequestError(what, got=few(lost), do="look at them, and confirm them with --yes")
    typer.confirm(f"{what}: make them?", abort=True, err=True)
