"""What the versions of a model are used for. In MLflow, a role is an alias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["champion", "challenger", "shadow"]
ROLES: tuple[Role, ...] = get_args(Role)
CHAMPION: Role = "champion"
CHALLENGER: Role = "challenger"
SHADOW: Role = "shadow"


@dataclass(frozen=True)
class Roles:
    """The versions of a model that are in use."""

    versions: Mapping[str, str]
    """The version of each role."""
    traffic: float
    """The share of units that the challenger predicts."""
