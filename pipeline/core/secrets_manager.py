"""Credentials in AWS Secrets Manager: `aws:NAME`, or `aws:NAME#KEY` for one value of a secret that is a JSON object."""

from __future__ import annotations

import json
import re
import threading
import time

from pipeline.core.errors import SettingsError, UnavailableError
from pipeline.core.extras import imports_of

PREFIX = "aws:"
KEPT_S = 300.0
"""How long a process uses a value before it asks again, so that a rotated secret is used soon."""
_PASSES = {"InternalServiceError", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"}
_ARN = re.compile(r"arn:aws[a-z-]*:secretsmanager:([a-z0-9-]+):")
"""Of a secret in any partition of AWS: `aws`, `aws-cn`, `aws-us-gov`."""

_values: dict[str, tuple[float, str]] = {}
_lock = threading.Lock()


def secret_value(reference: str, what: str) -> str:
    """Return the value that a reference without its prefix names; `what` is its name in errors.

    Credentials, region and endpoint of AWS come from the usual places: the environment, `~/.aws`, the role of the
    machine. Raises `SettingsError` if the secret cannot be read, and `UnavailableError` if that may pass.
    """
    name, _, key = reference.partition("#")
    text = _text(name, what)
    if not key:
        return text
    try:
        return str(json.loads(text)[key])
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"the secret {name!r} with {what} has no value {key!r}",
            do=f"store a JSON object with this key, or refer to the entire secret: {PREFIX}{name}",
        ) from error


def region_of(name: str) -> str | None:
    """Return the region in the ARN of a secret; `None` for another name, whose region is that of the process."""
    arn = _ARN.match(name)
    return None if arn is None else arn[1]


def _text(name: str, what: str) -> str:
    with _lock:
        at, text = _values.get(name, (-KEPT_S, ""))
        if time.monotonic() - at > KEPT_S:
            text = _fetched(name, what)
            _values[name] = (time.monotonic(), text)
        return text


def _fetched(name: str, what: str) -> str:
    with imports_of("aws", "reading AWS Secrets Manager"):
        import botocore.exceptions as errors  # noqa: PLC0415 - an extra
        import botocore.session  # noqa: PLC0415
    problem = f"the secret {name!r} with {what} cannot be read"
    try:
        client = botocore.session.get_session().create_client("secretsmanager", region_name=region_of(name))
        answer = client.get_secret_value(SecretId=name)
    except errors.ClientError as error:
        code, message = (error.response["Error"].get(part, "") for part in ("Code", "Message"))
        if code in _PASSES:
            raise UnavailableError(problem, got=message) from error
        do = "check its name and region, and that secretsmanager:GetSecretValue is allowed"
        raise SettingsError(problem, got=f"{code}: {message}", do=do) from error
    except (errors.NoCredentialsError, errors.NoRegionError, errors.PartialCredentialsError) as error:
        do = "set AWS_REGION and the credentials of AWS, or run where a role provides them"
        raise SettingsError(problem, got=str(error), do=do) from error
    except errors.BotoCoreError as error:
        raise UnavailableError(problem, got=str(error)) from error
    if "SecretString" not in answer:
        raise SettingsError(problem, got="bytes", do="store it as text")
    return str(answer["SecretString"])
