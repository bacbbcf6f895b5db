"""The objects of an account that no emulator has: it answers SHOW and DESCRIBE, and takes the DDL of `warehouse apply`.

It knows only the statements that Headwater sends. What real answers look like is from Snowflake's reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
_SIZES = {
    "XSMALL": "X-Small",
    "XLARGE": "X-Large",
    "XXLARGE": "2X-Large",
    "XXXLARGE": "3X-Large",
    "X4LARGE": "4X-Large",
}
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def _names(text: str) -> list[str]:
    return _QUOTED.findall(text)


class ScriptedSnowflake:
    """An account with a schema DB.GOLD."""

    def __init__(self, *tables: str) -> None:
        self.sent: list[str] = []
        self.warehouses: dict[str, Row] = {}
        self.monitors: dict[str, Row] = {}
        self.roles: dict[str, dict[str, Any]] = {}
        self.policies: dict[str, dict[str, tuple[str, str]]] = {"MASKING": {}, "ROW ACCESS": {}}
        self.tables: dict[str, dict[str, Any]] = {
            name: {"cluster_by": "", "search": set(), "masking": {}, "access": None} for name in tables
        }

    def rows(self, statement: str) -> list[Row]:
        self.sent.append(statement)
        for pattern, answer in self._answers().items():
            match = re.fullmatch(pattern, statement, re.DOTALL)
            if match is not None:
                return answer(*match.groups()) or []
        raise AssertionError(f"not understood: {statement}")

    @property
    def changes(self) -> list[str]:
        return [each for each in self.sent if not each.startswith(("SHOW", "DESCRIBE", "SELECT"))]

    def _answers(self) -> dict[str, Callable[..., list[Row] | None]]:
        return {
            r"SHOW WAREHOUSES": lambda: [{"name": name, **row} for name, row in self.warehouses.items()],
            r"SHOW RESOURCE MONITORS": lambda: [{"name": name, **row} for name, row in self.monitors.items()],
            r"SHOW ROLES": lambda: [{"name": name} for name in self.roles],
            r"SHOW TABLES": self._show_tables,
            r"SHOW (MASKING|ROW ACCESS) POLICIES": lambda kind: [{"name": name} for name in self.policies[kind]],
            r'DESCRIBE (MASKING|ROW ACCESS) POLICY "(\w+)"': self._describe_policy,
            r'DESCRIBE SEARCH OPTIMIZATION ON "(.*)"': lambda table: [
                {"method": "EQUALITY", "target": name} for name in sorted(self.tables[table]["search"])
            ],
            r"SELECT \"POLICY_NAME\".*REF_ENTITY_NAME => 'DB\.GOLD\.(.*)', REF_ENTITY_DOMAIN => 'TABLE'\)\)": self._references,
            r'SHOW GRANTS TO ROLE "(\w+)"': lambda role: [
                {"privilege": p, "granted_on": kind, "name": name}
                for p, kind, name in sorted(self.roles[role]["grants"])
            ],
            r'SHOW GRANTS OF ROLE "(\w+)"': lambda role: [
                {"granted_to": "ROLE", "grantee_name": name} for name in sorted(self.roles[role]["to"])
            ],
            r'(?:CREATE|ALTER) WAREHOUSE "(\w+)" (?:WITH|SET) (.*)': self._set_warehouse,
            r'(?:CREATE|ALTER) RESOURCE MONITOR "(\w+)" (?:WITH|SET) (.*)': self._set_monitor,
            r'CREATE ROLE IF NOT EXISTS "(\w+)"': lambda role: self.roles.update(
                {role: {"grants": set(), "to": set()}}
            ),
            r'GRANT ROLE "(\w+)" TO ROLE "(\w+)"': lambda role, to: self.roles[role]["to"].add(to),
            r'(GRANT|REVOKE) (\w+) ON (\w+) (.*) (?:TO|FROM) ROLE "(\w+)"': self._set_grant,
            r'(?:CREATE|ALTER) (MASKING|ROW ACCESS) POLICY "(\w+)" (?:AS (\(.*?\)) RETURNS \w+|SET BODY) -> (.*)': self._set_policy,
            r'ALTER TABLE "(.*?)" (?:CLUSTER BY \((.*)\)|DROP CLUSTERING KEY)': self._set_cluster_by,
            r'ALTER TABLE "(.*?)" (ADD|DROP) SEARCH OPTIMIZATION ON EQUALITY\((.*)\)': self._set_search,
            r'ALTER TABLE "(.*?)" MODIFY COLUMN "(.*?)" (?:SET MASKING POLICY "(\w+)" FORCE|UNSET MASKING POLICY)': self._set_masking,
            r'ALTER TABLE "(.*?)" (?:DROP ROW ACCESS POLICY "(\w+)")?(?:, )?(?:ADD ROW ACCESS POLICY "(\w+)" ON \((.*)\))?': self._set_access,
        }

    def _show_tables(self) -> list[Row]:
        return [
            {"name": name, "cluster_by": table["cluster_by"], "search_optimization": "ON" if table["search"] else "OFF"}
            for name, table in self.tables.items()
        ]

    def _describe_policy(self, kind: str, name: str) -> list[Row]:
        signature, body = self.policies[kind][name]
        return [{"signature": signature, "body": body}]

    def _references(self, table: str) -> list[Row]:
        shown = self.tables[table]
        rows = [
            {
                "POLICY_NAME": policy,
                "POLICY_KIND": "MASKING_POLICY",
                "REF_COLUMN_NAME": column,
                "REF_ARG_COLUMN_NAMES": None,
            }
            for column, policy in shown["masking"].items()
        ]
        if shown["access"]:
            policy, columns = shown["access"]
            rows.append(
                {
                    "POLICY_NAME": policy,
                    "POLICY_KIND": "ROW_ACCESS_POLICY",
                    "REF_COLUMN_NAME": None,
                    "REF_ARG_COLUMN_NAMES": json.dumps(columns),
                }
            )
        return rows

    def _set_warehouse(self, name: str, options: str) -> None:
        given = dict(re.findall(r'(\w+) = "?(\w+)"?', options))
        size = given["WAREHOUSE_SIZE"]
        new = {"resource_monitor": "null", "min_cluster_count": 1, "max_cluster_count": 1, "scaling_policy": "STANDARD"}
        before = self.warehouses.get(name, new)
        self.warehouses[name] = {
            "size": _SIZES.get(size, size.title()),
            "auto_suspend": int(given["AUTO_SUSPEND"]),
            "auto_resume": given["AUTO_RESUME"].lower(),
            "min_cluster_count": int(given.get("MIN_CLUSTER_COUNT", before["min_cluster_count"])),
            "max_cluster_count": int(given.get("MAX_CLUSTER_COUNT", before["max_cluster_count"])),
            "scaling_policy": given.get("SCALING_POLICY", before["scaling_policy"]),
            "resource_monitor": given.get("RESOURCE_MONITOR", before["resource_monitor"]),
        }

    def _set_monitor(self, name: str, options: str) -> None:
        given = dict(re.findall(r"(\w+) = (\w+)", options))
        at: dict[str, list[str]] = {}
        for percent, action in re.findall(r"ON (\d+) PERCENT DO (\w+)", options):
            at.setdefault(action, []).append(f"{percent}%")
        self.monitors[name] = {
            "credit_quota": f"{given['CREDIT_QUOTA']}.00",
            "frequency": given.get("FREQUENCY") or self.monitors[name]["frequency"],
            "notify_at": ",".join(at.get("NOTIFY", [])) or None,
            "suspend_at": ",".join(at.get("SUSPEND", [])) or None,
            "suspend_immediately_at": ",".join(at.get("SUSPEND_IMMEDIATE", [])) or None,
        }

    def _set_grant(self, verb: str, privilege: str, kind: str, name: str, role: str) -> None:
        grant = (privilege, kind, ".".join(_names(name)))
        grants = self.roles[role]["grants"]
        if verb == "GRANT":
            grants.add(grant)
        else:
            grants.remove(grant)

    def _set_policy(self, kind: str, name: str, signature: str | None, body: str) -> None:
        known = self.policies[kind].get(name)
        assert (known is None) is (signature is not None)
        self.policies[kind][name] = (signature or (known[0] if known else ""), body)

    def _set_cluster_by(self, table: str, columns: str | None) -> None:
        self.tables[table]["cluster_by"] = f"LINEAR({', '.join(_names(columns))})" if columns else ""

    def _set_search(self, table: str, verb: str, columns: str) -> None:
        names = set(_names(columns))
        search = self.tables[table]["search"]
        self.tables[table]["search"] = search | names if verb == "ADD" else search - names

    def _set_masking(self, table: str, column: str, policy: str | None) -> None:
        masking = self.tables[table]["masking"]
        if policy:
            masking[column] = policy
        else:
            del masking[column]

    def _set_access(self, table: str, before: str | None, policy: str | None, columns: str | None) -> None:
        access = self.tables[table]["access"]
        assert (access[0] if access else None) == before  # a table has one
        self.tables[table]["access"] = (policy, _names(columns or "")) if policy else None
