"""Names of GraphQL for tables and columns, whose own names may contain anything."""

from __future__ import annotations

import re
from collections.abc import Iterable


class Names:
    """Gives each thing a name that nothing else in the same place has. The order of calls decides who gets the plain one."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        """Never give reserved names."""
        self._taken = set(reserved)

    def give(self, wanted: str) -> str:
        """Return a name: letters, digits and underscores of the wanted one, with a number if it is taken."""
        plain = re.sub(r"[^_0-9A-Za-z]", "_", wanted) or "_"
        if (
            plain[0].isdigit() or plain.startswith("__") or plain == "_"
        ):  # names that begin so are not valid, or reserved
            plain = f"x{plain}"
        name, number = plain, 1
        while name in self._taken:
            number += 1
            name = f"{plain}_{number}"
        self._taken.add(name)
        return name


def type_name(name: str) -> str:
    """Return the name of a type: `cafe_orders` is `CafeOrders`."""
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^0-9A-Za-z]+", name)) or "_"
