"""The options of object stores under the names that Delta uses, and as the clients of fsspec take them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import SettingsError

RETRIES = 3
"""The number of retries by fsspec's client, within seconds; after that, a stream reports it and retries itself."""
S3FS_TRIES = 2
"""How often s3fs sends a request, each time with these retries: again if the response ends too early."""
CONNECT_S, READ_S = 5, 30
"""The time limits of fsspec's client for a connection and a response, which are those of delta-rs."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|m)")
CONNECTIONS = 64
"""The number of requests that fsspec's client sends at the same time."""
S3_OPTIONS = (
    "access_key_id",
    "secret_access_key",
    "session_token",
    "region",
    "endpoint_url",
    "endpoint",
    "allow_http",
    "max_retries",
)
"""The options of files on S3, without the prefix `aws_`."""
LAKE_OPTIONS = (
    "region",
    "default_region",
    "endpoint_url",
    "endpoint_url_s3",
    "endpoint",
    "allow_http",
    "virtual_hosted_style_request",
    "profile",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "skip_signature",
    "server_side_encryption",
    "sse_kms_key_id",
    "sse_bucket_key_enabled",
    "max_retries",
    "timeout",
)
"""The options of a lake on S3, without the prefix `aws_`."""


def aws_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return storage options by names in lower case without `aws_`: Delta accepts `AWS_REGION`, `aws_region` and `region`."""
    return {name.lower().removeprefix("aws_"): value for name, value in options.items()}


def s3_client_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of fsspec's client of S3 for storage options."""
    aws = aws_options(options)
    client = {"region_name": aws["region"]} if "region" in aws else {}
    tries = 1 + int(aws.get("max_retries", RETRIES))
    config: dict[str, Any] = {
        "retries": {"mode": "standard", "total_max_attempts": tries},
        "connect_timeout": CONNECT_S,
        "read_timeout": _seconds(aws["timeout"]) if "timeout" in aws else READ_S,
        "max_pool_connections": CONNECTIONS,
    }
    if "virtual_hosted_style_request" in aws:
        is_virtual = aws["virtual_hosted_style_request"].lower() == "true"
        config["s3"] = {"addressing_style": "virtual" if is_virtual else "path"}
    anonymous = {"anon": True} if aws.get("skip_signature", "").lower() == "true" else {}
    return {
        "key": aws.get("access_key_id"),
        "secret": aws.get("secret_access_key"),
        "token": aws.get("session_token"),
        "endpoint_url": aws.get("endpoint_url", aws.get("endpoint")),
        "client_kwargs": client,
        "config_kwargs": config,
        "s3_additional_kwargs": _encryption(aws),
        "use_listings_cache": False,  # other processes write too
        **anonymous,
    }


def _seconds(text: str) -> float:
    """Return a duration such as `30s` or `500ms` in seconds; raise `SettingsError` for another text."""
    parts = _DURATION.fullmatch(text.strip())
    if parts is None:
        raise SettingsError(
            "the timeout of the store is not a duration", got=repr(text), do='for example: timeout = "30s"'
        )
    return float(parts[1]) * {"ms": 0.001, "s": 1, "m": 60}[parts[2]]


def _encryption(aws: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of requests that write, for encryption by the store."""
    names = {"server_side_encryption": "ServerSideEncryption", "sse_kms_key_id": "SSEKMSKeyId"}
    arguments: dict[str, Any] = {argument: aws[name] for name, argument in names.items() if aws.get(name)}
    if aws.get("sse_bucket_key_enabled", "").lower() == "true":
        arguments["BucketKeyEnabled"] = True
    return arguments
