"""The client of Google Cloud Storage: that of gcsfs with credentials from an option, and without a long wait for refused ones."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError, is_retriable
from google.oauth2.credentials import Credentials
from google.oauth2.service_account import Credentials as ServiceAccount

from pipeline.connectors.files.remote_listing import missing_bucket
from pipeline.core.errors import SettingsError

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_TRIES, _FIRST_WAIT_S = 3, 0.5
_UNAUTHORIZED = 401


class GoogleStorage(GCSFileSystem):  # type: ignore[misc]
    """Objects, which are read only."""

    def __init__(self, *, token: str = "", anon: bool = False, **options: Any) -> None:
        """Connect with the key of a service account, the login of a user (both JSON) or an access token.

        Without a token, the default credentials of the environment are used. Raises `SettingsError` for other JSON.
        """
        chosen = "anon" if anon else _credentials(token) if token else "google_default"
        super().__init__(token=chosen, access="read_only", **options)

    async def _request(self, *arguments: Any, **options: Any) -> Any:
        request = GCSFileSystem._request.__wrapped__  # noqa: SLF001 - without its retries, which take half a minute
        for attempt in range(_TRIES):
            try:
                return await request(self, *arguments, **options)
            except Exception as error:
                is_refused = isinstance(error, HttpError) and error.code == _UNAUTHORIZED
                if attempt == _TRIES - 1 or is_refused or not is_retriable(error):
                    raise
                await asyncio.sleep(_FIRST_WAIT_S * 2**attempt)
        return None

    async def _do_list_objects(self, path: str, *arguments: Any, **options: Any) -> Any:
        try:
            return await super()._do_list_objects(path, *arguments, **options)
        except FileNotFoundError as error:  # a folder that does not exist is empty
            raise missing_bucket("bucket", path.partition("/")[0]) from error


def _credentials(token: str) -> Any:
    if not token.lstrip().startswith("{"):
        return Credentials(token)
    try:
        known = json.loads(token)
        kind = known.get("type")
        if kind == "service_account":
            return ServiceAccount.from_service_account_info(known, scopes=[_SCOPE])
        if kind == "authorized_user":
            return Credentials.from_authorized_user_info(known)
        problem = f"the type {kind!r}"
    except ValueError as error:
        problem = str(error).partition(":")[0]  # the rest may be a part of the key
    raise SettingsError(
        "the option 'token' is not a credential of Google",
        got=problem,
        do="pass the JSON key of a service account, the JSON login of a user, or an access token",
    )
