"""Who may do what in the bucket: statements for its policy and for roles, with no more rights than are needed.

A reader gets the objects of its tables, and lists them; the metadata of runs in `_headwater/` is not part of a table for
it. `is_allowed` evaluates such statements as AWS does, for the subset that is used here, so that rights can be tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pipeline.lake.bucket.desired import DesiredBucket, PlacedTable

Statement = Mapping[str, Any]
_METADATA = "_headwater"


def bucket_statements(desired: DesiredBucket) -> list[Statement]:
    """Return the statements of a project in the policy of the bucket, by id."""
    statements: list[Statement] = []
    if desired.has_tls:
        statements.append(
            {
                "Sid": f"{desired.mark}Tls",
                "Effect": "Deny",
                "Principal": "*",
                "Action": ["s3:*"],
                "Resource": [desired.objects()],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        )
    for role, tables in desired.readers.items():
        for statement in _reading(desired, tables):
            sid = f"{desired.mark}{statement['Sid']}{role.title().replace('_', '').replace('-', '')}"
            statements.append({**statement, "Sid": sid, "Principal": {"AWS": [desired.roles[role]]}})
    return sorted(statements, key=lambda statement: str(statement["Sid"]))


def role_statements(desired: DesiredBucket, role: str | None) -> list[Statement]:
    """Return the statements for the policy of a role: a reader, or with `None` the processes that run the project."""
    key = [desired.kms_key] if desired.kms_key else []
    if role is not None:
        statements = list(_reading(desired, desired.readers[role]))
        decrypt = {"Sid": "Decrypt", "Effect": "Allow", "Action": ["kms:Decrypt"], "Resource": key}
        return [*statements, decrypt] if key and statements else statements
    objects = [
        "s3:AbortMultipartUpload",
        "s3:DeleteObject",
        "s3:GetObject",
        "s3:ListMultipartUploadParts",
        "s3:PutObject",
    ]
    written: list[Statement] = [
        {"Sid": "Write", "Effect": "Allow", "Action": objects, "Resource": [desired.objects()]},
        _listing(desired, [f"{desired.prefix}*"]),
    ]
    encrypt = {"Sid": "Encrypt", "Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": key}
    return [*written, encrypt] if key else written


def _reading(desired: DesiredBucket, tables: Sequence[PlacedTable]) -> Iterator[Statement]:
    if not tables:
        return
    yield {
        "Sid": "Read",
        "Effect": "Allow",
        "Action": ["s3:GetObject"],
        "Resource": [desired.objects(table.folder) for table in tables],
    }
    yield {
        "Sid": "Hide",
        "Effect": "Deny",
        "Action": ["s3:GetObject"],
        "Resource": [desired.objects(f"{table.folder}/{_METADATA}") for table in tables],
    }
    yield _listing(desired, [f"{desired.prefix}{table.folder}/*" for table in tables])


def _listing(desired: DesiredBucket, prefixes: Sequence[str]) -> Statement:
    return {
        "Sid": "List",
        "Effect": "Allow",
        "Action": ["s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{desired.bucket}"],
        "Condition": {"StringLike": {"s3:prefix": list(prefixes)}},
    }


def is_allowed(
    statements: Sequence[Statement],
    action: str,
    resource: str,
    *,
    principal: str = "",
    context: Mapping[str, str] | None = None,
) -> bool:
    """Return whether statements allow an action: one must allow it, and none deny it.

    `context` has the values of condition keys. Raises `ValueError` for a statement with an element that is not
    understood, because ignoring it could allow too much.
    """
    applying = [each for each in statements if _applies(each, action, resource, principal, context or {})]
    return bool(applying) and all(each["Effect"] == "Allow" for each in applying)


def _applies(statement: Statement, action: str, resource: str, principal: str, context: Mapping[str, str]) -> bool:
    unknown = set(statement) - {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
    if unknown:
        raise ValueError(f"a statement has an element that is not understood: {min(unknown)}")
    who = statement.get("Principal", "*")
    named = who == "*" or principal in _listed(who.get("AWS", ()))
    acts = any(fnmatchcase(action.lower(), pattern.lower()) for pattern in _listed(statement["Action"]))
    reaches = any(fnmatchcase(resource, pattern) for pattern in _listed(statement["Resource"]))
    return named and acts and reaches and _holds(statement.get("Condition", {}), context)


def _holds(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    for operator, keys in conditions.items():
        for key, values in keys.items():
            value = context.get(key)
            if value is None:
                return False
            if operator == "StringLike":
                matches = any(fnmatchcase(value, pattern) for pattern in _listed(values))
            elif operator in {"StringEquals", "Bool"}:
                matches = value in _listed(values)
            else:
                raise ValueError(f"a statement has a condition that is not understood: {operator}")
            if not matches:
                return False
    return True


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value
