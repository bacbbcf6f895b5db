"""Keeps runs and other commands that change tables from working on the same ones."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager

from pipeline.governance.run_leases import RunLease, holding
from pipeline.project.workspace import Workspace


def leased(workspace: Workspace, command: str, tables: Sequence[str]) -> AbstractContextManager[None]:
    """Hold the lease of tables for a command; raise `ConflictError` if a run, or such a command, computes one of them."""
    lease = RunLease(f"{command}-{secrets.token_hex(4)}", workspace.settings.lake, tables)
    return holding(workspace.catalog, lease)
