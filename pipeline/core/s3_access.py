"""How S3 is accessed: credentials, region and endpoint, the same for all clients.

The libraries that access S3 look for credentials in different places: delta-rs does not read profiles. They
are therefore looked up here, in the usual order, and given to each of them:

    1. access_key_id, secret_access_key and session_token of the options
    2. the profile of the options
    3. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the environment
    4. what botocore finds: AWS_PROFILE, the default profile, SSO, web identity, the role of the container or the machine
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from pipeline.core.errors import SettingsError
from pipeline.core.extras import imports_of
from pipeline.core.object_store_options import aws_options

if TYPE_CHECKING:
    from botocore.session import Session

_IDENTITY = ("access_key_id", "secret_access_key", "session_token")
_ENDPOINTS = ("endpoint_url_s3", "endpoint_url", "endpoint")
_REGIONS = ("region", "default_region")
_RESOLVED = frozenset({*_IDENTITY, *_ENDPOINTS, *_REGIONS, "profile"})


@dataclass(frozen=True)
class S3Access:
    """The credentials, region and endpoint of S3, and all options, by Delta's names without `aws_`."""

    options: Mapping[str, str] = field(repr=False)
    origin: str
    """Where the credentials are from; empty if there are none."""

    @property
    def has_credentials(self) -> bool:
        """Whether there are credentials; requests without them are those of a public bucket."""
        return "access_key_id" in self.options


def s3_access(options: Mapping[str, str], environ: Mapping[str, str]) -> S3Access:
    """Resolve how S3 is accessed; raise `SettingsError` if a profile does not exist, or if credentials are mixed."""
    given = aws_options(options)
    variables = tuple(sorted((name, value) for name, value in environ.items() if name.startswith("AWS_") and value))
    around = aws_options(dict(variables))
    profile = given.get("profile")
    identity, origin = _identity(given, around, variables)
    resolved = {name: value for name, value in {**around, **given}.items() if name not in _RESOLVED} | identity
    for name, names in (("endpoint_url", _ENDPOINTS), ("region", _REGIONS)):
        value = next((each[n] for each in (given, around) for n in names if n in each), None)
        value = value or _configured(name, profile, variables)
        if value:
            resolved[name] = value
    return S3Access(resolved, origin)


def _identity(
    given: Mapping[str, str], around: Mapping[str, str], variables: tuple[tuple[str, str], ...]
) -> tuple[dict[str, str], str]:
    """Return the credentials and their origin; parts of different credentials are never combined."""
    profile = given.get("profile")
    if given.get("skip_signature", "").lower() == "true":
        return {}, ""
    if "access_key_id" in given:
        identity, origin = {name: given[name] for name in _IDENTITY if name in given}, "the options of the store"
    elif profile is None and "access_key_id" in around:
        identity, origin = {name: around[name] for name in _IDENTITY if name in around}, "the environment"
    else:
        identity, origin = _found(profile, variables)
    if identity and "session_token" in around and "session_token" not in identity:
        raise SettingsError(
            "AWS_SESSION_TOKEN is set, and belongs to other credentials than those of the lake",
            got=f"credentials of {origin}",
            do="unset AWS_SESSION_TOKEN",
        )
    return identity, origin


def _found(profile: str | None, variables: tuple[tuple[str, str], ...]) -> tuple[dict[str, str], str]:
    credentials = _session(profile, variables).get_credentials()
    if credentials is None:
        return {}, ""
    frozen = credentials.get_frozen_credentials()  # renewed shortly before they expire
    values = dict(zip(_IDENTITY, (frozen.access_key, frozen.secret_key, frozen.token), strict=True))
    origin = str(credentials.method) if profile is None else f"the profile {profile!r}"
    return {name: value for name, value in values.items() if value}, origin


def _configured(name: str, profile: str | None, variables: tuple[tuple[str, str], ...]) -> str | None:
    """Return a value of the profile in the configuration file of AWS."""
    value = _session(profile, variables).get_scoped_config().get(name)
    return value if isinstance(value, str) else None


@lru_cache(maxsize=16)
def _session(profile: str | None, variables: tuple[tuple[str, str], ...]) -> Session:
    """Return a session of botocore, which keeps credentials until they expire, for the given environment."""
    del variables  # botocore reads them
    with imports_of("s3", "a lake on S3"):
        from botocore.exceptions import ProfileNotFound  # noqa: PLC0415 - of the extra for S3
        from botocore.session import Session  # noqa: PLC0415 - likewise
    session = Session(profile=profile)
    try:
        session.get_scoped_config()
    except ProfileNotFound as error:
        raise SettingsError(
            "the profile of the lake's credentials does not exist",
            got=str(profile or session.profile),
            do="set aws_profile to a profile of ~/.aws/config or ~/.aws/credentials",
        ) from error
    return session
