"""Why an object store refuses a request, from the errors of its clients, which have no common types."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StoreRefusal:
    """A cause, recognized by a pattern in the text of an error, and what to do about it."""

    pattern: re.Pattern[str]
    cause: str
    do: str
    has_region: bool = False


def _refusal(pattern: str, cause: str, do: str, *, has_region: bool = False) -> StoreRefusal:
    return StoreRefusal(re.compile(pattern), cause, do, has_region)


_DENIED = "the credentials do not permit this"
_REFUSALS = (
    _refusal(
        r"NoSuchBucket|[Ss]pecified bucket does not exist",
        "the bucket does not exist",
        "create it, or correct `lake` and the endpoint of the store",
    ),
    _refusal(
        r"RequestTimeTooSkewed|difference between the request time and the",
        "the clock of this machine is wrong",
        "set the clock, for example by NTP: the store accepts a difference of 15 minutes",
    ),
    _refusal(
        r"ExpiredToken|token has expired|TokenRefreshRequired",
        "the session token has expired",
        "get new credentials, for example by `aws sso login`; a profile or a role renews them by itself",
    ),
    _refusal(
        r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|Access Key Id you provided|signature we calculated"
        r"|token is malformed|token included in the request is invalid",
        "the store does not accept the credentials",
        "correct the access key, its secret and the session token: `headwater doctor` shows where they are from",
    ),
    _refusal(
        r"KMS\.|kms:\w|KMSKey|KMS key",
        "the KMS key cannot be used",
        "correct aws_sse_kms_key_id, and allow kms:GenerateDataKey and kms:Decrypt",
    ),
    _refusal(
        r"PermanentRedirect|Moved Permanently|redirect without LOCATION|AuthorizationHeaderMalformed"
        r"|must be addressed using the specified endpoint|region '[^']*' is wrong|IllegalLocationConstraint",
        "the bucket is in another region",
        "set `region` of [env.….storage] to the region of the bucket",
        has_region=True,
    ),
    _refusal(
        r"Unable to locate credentials|NoCredentials|169\.254\.169\.254",
        "there are no credentials",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose a profile by aws_profile, or give the machine a role",
    ),
    _refusal(
        r"AccessDenied|Access Denied|PermissionError|Forbidden|lacked the necessary privileges|AllAccessDisabled",
        _DENIED,
        "allow s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and s3:DeleteObject on its objects",
    ),
    _refusal(
        r"Could not connect to the endpoint|tcp connect error|dns error|Connect timeout on endpoint"
        r"|Name or service not known|operation timed out|Read timeout on endpoint",
        "the endpoint does not answer",
        "check endpoint_url and the network, and try again",
    ),
    _refusal(
        r"\bBad Request\b",
        "the store does not accept the request",
        "check the region, the session token and the endpoint",
    ),
)
_RIGHTS = {
    "s3:ListBucket": re.compile(r"\b(ListObjectsV2|ListObjects|HeadBucket)\b"),
    "s3:GetObject": re.compile(r"\b(GetObject|HeadObject)\b"),
    "s3:PutObject": re.compile(r"\b(PutObject|CreateMultipartUpload|UploadPart|CompleteMultipartUpload)\b"),
    "s3:DeleteObject": re.compile(r"\b(DeleteObject|DeleteObjects)\b"),
}
"""The rights that operations need, which are in the text of an error or its cause."""
_REGION = re.compile(r"expecting '([\w-]+)'|<Region>([\w-]+)</Region>")
_MOST_CAUSES = 6


def refusal_of(error: BaseException) -> tuple[str, str] | None:
    """Return why a store refused a request and what to do; `None` if the cause is not known."""
    text = "\n".join(_texts(error))
    for refusal in _REFUSALS:
        if refusal.pattern.search(text):
            region = _REGION.search(text) if refusal.has_region else None
            where = f": {region[1] or region[2]}" if region is not None else ""
            rights = [right for right, operations in _RIGHTS.items() if operations.search(text)]
            cause = (
                f"the credentials do not permit {rights[0]}" if refusal.cause == _DENIED and rights else refusal.cause
            )
            return f"{cause}{where}", refusal.do
    return None


def _texts(error: BaseException) -> Iterator[str]:
    """Yield the texts of an error and of those that caused it, with the codes of botocore."""
    each: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if each is None:
            return
        yield f"{type(each).__name__} {each}"
        response: Any = getattr(each, "response", None)
        if isinstance(response, dict):
            yield f"{response.get('Error', {}).get('Code', '')} {getattr(each, 'operation_name', '')}"
            region = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
            if region:
                yield f"<Region>{region}</Region>"
        each = each.__cause__ or each.__context__
