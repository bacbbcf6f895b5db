"""Lifecycle rules: cheaper storage classes for old objects, and an end for what no reader needs.

No rule removes objects of a table by age, because a live file can be old: vacuum removes files. A storage class that
must be restored before it can be read would break a table, so policies cannot name one. S3 leaves objects of less than
128 kB where they are, because other classes bill at least this size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.lake.bucket.desired import DesiredBucket

UPLOAD_DAYS = 7
"""After this many days, S3 removes the parts of an upload that was never completed."""
Rule = Mapping[str, Any]


def lifecycle_rules(desired: DesiredBucket, *, is_versioned: bool) -> list[Rule]:
    """Return the rules of a project, by id. With versioning, removed objects are kept for the longest history."""
    mark = f"headwater/{desired.project}"
    rules: list[Rule] = [
        {
            "ID": f"{mark}/uploads",
            "Filter": {"Prefix": desired.prefix},
            "Status": "Enabled",
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UPLOAD_DAYS},
        }
    ]
    if is_versioned:
        days = max([1, *(table.policy.history.days for table in desired.tables)])
        rules.append(
            {
                "ID": f"{mark}/noncurrent",
                "Filter": {"Prefix": desired.prefix},
                "Status": "Enabled",
                "NoncurrentVersionExpiration": {"NoncurrentDays": days},
            }
        )
    rules += [
        {
            "ID": f"{mark}/tier/{table.name}",
            "Filter": {"Prefix": f"{desired.prefix}{table.folder}/"},
            "Status": "Enabled",
            "Transitions": [{"Days": age.days, "StorageClass": kind} for age, kind in table.policy.tiering],
        }
        for table in desired.tables
        if table.policy.tiering
    ]
    return sorted(rules, key=lambda rule: str(rule["ID"]))


def deletes(rule: Rule) -> bool:
    """Return whether a rule makes S3 delete objects that were complete."""
    return any("Expiration" in part for part in rule)


def canonical(rule: Rule) -> Rule:
    """Return a rule as it is compared: without what a store adds, and in one order."""
    found = dict(rule)
    prefix = found.pop("Prefix", None)
    where = dict(found.get("Filter") or {"Prefix": prefix or ""})
    where.update(where.pop("And", {}))
    found["Filter"] = dict(sorted(where.items()))
    if "Transitions" in found:
        steps: Sequence[Mapping[str, Any]] = found["Transitions"]
        found["Transitions"] = sorted((dict(step) for step in steps), key=lambda step: int(step.get("Days", 0)))
    return {name: value for name, value in sorted(found.items()) if value not in ([], {}, None)}
