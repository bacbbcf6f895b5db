"""Compares a bucket with what is declared, and makes the difference; what belongs to others stays as it is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.errors import StorageError, StorageUnavailableError
from pipeline.core.extras import imports_of
from pipeline.core.s3_access import s3_access
from pipeline.lake.bucket.access import Statement, bucket_statements
from pipeline.lake.bucket.desired import DesiredBucket
from pipeline.lake.bucket.lifecycle import Rule, canonical, deletes, lifecycle_rules

Kind = Literal["lifecycle rule", "policy statement", "encryption", "public access"]
_BLOCKED = {"BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True, "RestrictPublicBuckets": True}
_MISSING = {
    "NoSuchLifecycleConfiguration",
    "NoSuchBucketPolicy",
    "ServerSideEncryptionConfigurationNotFoundError",
    "NoSuchPublicAccessBlockConfiguration",
}
_ADVICE = {
    "NoSuchBucket": "create it, or correct `lake` in headwater.toml",
    "AccessDenied": "use credentials that may read and change the configuration of the bucket",
    "NotImplemented": "the store does not support this: declare less, or use S3",
}


@dataclass(frozen=True)
class BucketChange:
    """One difference between a bucket and what is declared."""

    kind: Kind
    name: str
    before: Any = None
    """What the bucket has; `None` for nothing."""
    after: Any = None
    """What it should have; `None` for nothing."""

    @property
    def action(self) -> str:
        """`add`, `change` or `remove`."""
        return "add" if self.before is None else "remove" if self.after is None else "change"

    @property
    def deletes(self) -> bool:
        """Whether it takes something away: rights, a rule, or objects that a rule removes from now on."""
        return self.after is None or (self.kind == "lifecycle rule" and deletes(self.after))


@dataclass(frozen=True)
class _Actual:
    """What belongs to a project in a bucket, and what belongs to others."""

    rules: Mapping[str, Rule]
    other_rules: Sequence[Rule]
    statements: Mapping[str, Statement]
    other_statements: Sequence[Statement]
    encryption: Mapping[str, Any] | None
    public: Mapping[str, Any] | None
    is_versioned: bool


@dataclass(frozen=True)
class BucketAdministration:
    """The configuration of the bucket of a lake, read and changed by the API of S3."""

    desired: DesiredBucket
    client: Any

    @classmethod
    def connect(cls, desired: DesiredBucket, options: Mapping[str, str]) -> BucketAdministration:
        """Return the administration of a bucket with the storage options of the environment."""
        with imports_of("aws", "the policies of a bucket"):
            import botocore.config  # noqa: PLC0415 - an extra
            import botocore.session  # noqa: PLC0415
        aws = s3_access(options, os.environ).options
        client = botocore.session.get_session().create_client(
            "s3",
            region_name=aws.get("region"),
            endpoint_url=aws.get("endpoint_url"),
            aws_access_key_id=aws.get("access_key_id"),
            aws_secret_access_key=aws.get("secret_access_key"),
            aws_session_token=aws.get("session_token"),
            config=botocore.config.Config(retries={"mode": "standard"}),
        )
        return cls(desired, client)

    def plan(self) -> tuple[BucketChange, ...]:
        """Return what has to change, in order; raise `StorageError` if the configuration cannot be read."""
        with self._translated("read"):
            return tuple(self._changes(self._actual()))

    def apply(self, changes: Sequence[BucketChange]) -> None:
        """Make planned changes; raise `StorageError` if the store refuses one, or if the bucket has changed since."""
        with self._translated("changed"):
            actual = self._actual()
            if tuple(self._changes(actual)) != tuple(changes):
                raise StorageError("the bucket has changed since the plan", do="plan again: headwater lake plan")
            kinds = {change.kind for change in changes}
            if "public access" in kinds:
                self._call("put_public_access_block", PublicAccessBlockConfiguration=_BLOCKED)
            if "encryption" in kinds:
                self._call("put_bucket_encryption", ServerSideEncryptionConfiguration={"Rules": [self._encryption()]})
            if "policy statement" in kinds:
                self._put_policy([*actual.other_statements, *bucket_statements(self.desired)])
            if "lifecycle rule" in kinds:
                rules = lifecycle_rules(self.desired, is_versioned=actual.is_versioned)
                self._put_rules([*actual.other_rules, *rules])

    def _changes(self, actual: _Actual) -> Iterator[BucketChange]:
        if actual.public != _BLOCKED:
            yield BucketChange("public access", self.desired.bucket, actual.public, _BLOCKED)
        if actual.encryption != self._encryption():
            yield BucketChange("encryption", self.desired.bucket, actual.encryption, self._encryption())
        statements = {str(each["Sid"]): each for each in bucket_statements(self.desired)}
        yield from _differences("policy statement", actual.statements, statements, _plain)
        rules = {str(each["ID"]): each for each in lifecycle_rules(self.desired, is_versioned=actual.is_versioned)}
        yield from _differences("lifecycle rule", actual.rules, rules, canonical)

    def _actual(self) -> _Actual:
        rules = self._get("get_bucket_lifecycle_configuration").get("Rules", [])
        policy = json.loads(self._get("get_bucket_policy").get("Policy", "{}"))
        statements = policy.get("Statement", [])
        encryption = self._get("get_bucket_encryption").get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
        mine = f"headwater/{self.desired.project}/"
        own_rules = [rule for rule in rules if str(rule.get("ID", "")).startswith(mine)]
        own = [each for each in statements if str(each.get("Sid", "")).startswith(self.desired.mark)]
        return _Actual(
            rules={str(rule["ID"]): rule for rule in own_rules},
            other_rules=[rule for rule in rules if rule not in own_rules],
            statements={str(each["Sid"]): each for each in own},
            other_statements=[each for each in statements if each not in own],
            encryption=_encryption_of(encryption),
            public=self._get("get_public_access_block").get("PublicAccessBlockConfiguration"),
            is_versioned=self._get("get_bucket_versioning").get("Status") == "Enabled",
        )

    def _encryption(self) -> Mapping[str, Any]:
        key = self.desired.kms_key
        how = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key} if key else {"SSEAlgorithm": "AES256"}
        return {"ApplyServerSideEncryptionByDefault": how, "BucketKeyEnabled": bool(key)}

    def _put_policy(self, statements: Sequence[Statement]) -> None:
        if not statements:
            self._call("delete_bucket_policy")
            return
        policy = {"Version": "2012-10-17", "Statement": statements}
        self._call("put_bucket_policy", Policy=json.dumps(policy))

    def _put_rules(self, rules: Sequence[Rule]) -> None:
        self._call("put_bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": rules})

    def _get(self, name: str) -> Mapping[str, Any]:
        """Return a part of the configuration; empty if the bucket does not have it."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - an extra

        try:
            return self._call(name)
        except ClientError as error:
            if error.response["Error"].get("Code") in _MISSING:
                return {}
            raise

    def _call(self, name: str, **parameters: Any) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = getattr(self.client, name)(Bucket=self.desired.bucket, **parameters)
        return answer

    @contextmanager
    def _translated(self, done: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an extra

        problem = f"the configuration of bucket {self.desired.bucket!r} cannot be {done}"
        try:
            yield
        except ClientError as error:
            code = str(error.response["Error"].get("Code", ""))
            kind = StorageUnavailableError if is_unavailable(error) else StorageError
            raise kind(problem, got=message_of(error), do=_ADVICE.get(code)) from error
        except BotoCoreError as error:
            kind = StorageUnavailableError if is_unavailable(error) else StorageError
            raise kind(
                problem, got=message_of(error), do="check the credentials, the region and the endpoint"
            ) from error


def _differences(
    kind: Kind,
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
    compared: Callable[[Mapping[str, Any]], object],
) -> Iterator[BucketChange]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None or new is None or compared(old) != compared(new):
            yield BucketChange(kind, name, old, new)


def _plain(statement: Statement) -> object:
    """Return a statement as it is compared: a store may return one value without its list."""

    def listed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: listed(each) for name, each in sorted(value.items())}
        return sorted(value) if isinstance(value, list) else [str(value)]

    return listed(statement)


def _encryption_of(rules: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    if not rules:
        return None
    rule = rules[0]
    default = rule.get("ApplyServerSideEncryptionByDefault", {})
    how = {name: default[name] for name in ("SSEAlgorithm", "KMSMasterKeyID") if name in default}
    return {"ApplyServerSideEncryptionByDefault": how, "BucketKeyEnabled": bool(rule.get("BucketKeyEnabled"))}
