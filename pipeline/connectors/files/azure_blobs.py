"""The client of Azure's blobs: that of adlfs with listings of one folder, and with time limits for a store that does not answer."""

from __future__ import annotations

from typing import Any

from adlfs import AzureBlobFileSystem
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import StorageErrorCode
from azure.storage.blob.aio import BlobServiceClient

from pipeline.connectors.files.remote_listing import missing_bucket
from pipeline.core.object_store_options import CONNECT_S, READ_S

_RETRIES: dict[str, Any] = {"retry_total": 2, "initial_backoff": 1, "increment_base": 1, "random_jitter_range": 1}
"""The client's own retries, within seconds; by default they take more than a minute."""


class AzureBlobs(AzureBlobFileSystem):  # type: ignore[misc]
    """Blobs of one account."""

    def do_connect(self) -> None:
        """Create the client for a connection string, or for an account with one of its credentials."""
        limits: dict[str, Any] = {**_RETRIES, "connection_timeout": CONNECT_S, "read_timeout": READ_S}
        if self.connection_string:
            self.service_client = BlobServiceClient.from_connection_string(self.connection_string, **limits)
            return
        host = getattr(self, "account_host", None) or f"{self.account_name}.blob.core.windows.net"
        self.account_url = f"https://{host}"
        credential = self.credential or self.account_key or self.sas_token
        self.service_client = BlobServiceClient(self.account_url, credential, **limits)

    async def _info(self, path: str, *_: Any, **__: Any) -> dict[str, Any]:
        container, _slash, name = path.strip("/").partition("/")
        async with self.service_client.get_blob_client(container, name) as client:
            try:
                details: list[dict[str, Any]] = await self._details([await client.get_blob_properties()])
            except ResourceNotFoundError as error:
                if getattr(error, "error_code", None) == StorageErrorCode.CONTAINER_NOT_FOUND:
                    raise missing_bucket("container", container) from error
                raise FileNotFoundError(path) from error
        return details[0]

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: FBT001, FBT002 - of the library
        if not path.strip("/"):
            containers: list[Any] = await super()._ls(path, detail=detail)
            return containers
        entries = await self._entries(path, "")
        return entries if detail else [each["name"] for each in entries]

    async def _find(self, path: str, *_: Any, prefix: str = "", **__: Any) -> dict[str, Any]:
        """Return what is directly in a folder, by name; that of adlfs reads what is in folders below it, too."""
        return {each["name"]: each for each in await self._entries(path, prefix)}

    async def _entries(self, folder: str, prefix: str) -> list[dict[str, Any]]:
        container, _, below = folder.strip("/").partition("/")
        begins = f"{below}/{prefix}" if below else prefix
        async with self.service_client.get_container_client(container) as client:
            try:
                found = [each async for each in client.walk_blobs(begins or None, include=["metadata"])]
            except ResourceNotFoundError as error:
                raise missing_bucket("container", container) from error
        details: list[dict[str, Any]] = await self._details(found)
        return details
