"""The client of FTP, with TLS or without.

That of fsspec does not verify certificates, takes a folder that cannot be listed for one that does not exist, and leaves
out lines of a listing that it does not understand.
"""

from __future__ import annotations

import ftplib
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any, BinaryIO

from fsspec.implementations.ftp import FTPFileSystem

from pipeline.core.errors import SourceError

_NOT_IMPLEMENTED = ("500", "501", "502", "504")
_NOT_FOUND = "550"
_UNIX = re.compile(r"([-dlbcps])\S{9,}\s+\d+\s+\S+\s+\S+\s+(\d+)\s+\S+\s+\S+\s+\S+ (.+)")
"""A line such as `-rw-r--r--    1 0    0    12 Nov 30 09:52 x.csv`: its kind, its size and its name."""
_WINDOWS = re.compile(r"\d\d-\d\d-\d{2,4}\s+\d\d:\d\d(?:[AP]M)?\s+(?:<DIR>\s+|(\d+) )(.+)", re.IGNORECASE)
_TOTAL = re.compile(r"total \d+|", re.IGNORECASE)
_TYPES = {"-": "file", "d": "directory", "dir": "directory", "file": "file"}


class FtpFiles(FTPFileSystem):  # type: ignore[misc]
    """Files of an FTP server. With `trusted`, its login, its listings and its files are encrypted."""

    def __init__(self, host: str, *, trusted: ssl.SSLContext | None = None, **options: Any) -> None:
        """Connect; with `trusted`, to a server with a certificate of one of its authorities."""
        self._trusted, self._has_machine_listings = trusted, True
        super().__init__(host, **options)

    def _connect(self) -> None:
        options: dict[str, Any] = {"timeout": self.timeout, "encoding": self.encoding}
        encrypted = _EncryptedFtp(context=self._trusted, **options) if self._trusted is not None else None
        self.ftp = encrypted or ftplib.FTP(**options)
        self.ftp.connect(self.host, self.port)
        self.ftp.login(*self.cred)
        if encrypted is not None:
            encrypted.prot_p()

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: FBT001, FBT002 - of the library
        """Return what is in a folder; raise `FileNotFoundError` if it does not exist."""
        folder = "/" + path.strip("/")
        base = folder.rstrip("/")
        try:
            found = [{**details, "name": f"{base}/{name}"} for name, details in self._entries(folder)]
        except ftplib.error_perm as error:
            if error.args[0][:3] == _NOT_FOUND and not self._is_listed(folder):
                raise FileNotFoundError(path) from error
            raise
        return found if detail else [each["name"] for each in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return what its folder says about a file; of a link, what the server says about its target if that is a file."""
        name = "/" + path.strip("/")
        if name == "/":
            return {"name": name, "size": 0, "type": "directory"}
        found = next((each for each in self.ls(name.rpartition("/")[0]) if each["name"] == name), None)
        if found is None:
            raise FileNotFoundError(path)
        if found["type"] != "link":
            return dict(found)
        self.ftp.voidcmd("TYPE I")
        try:
            return {**found, "type": "file", "size": self.ftp.size(name) or 0}
        except ftplib.error_perm:
            return {**found, "type": "directory"}

    def get_file(self, rpath: str, lpath: BinaryIO, **_: Any) -> None:
        """Copy a file to an open one."""
        self.ftp.retrbinary(f"RETR {rpath}", lpath.write)

    def changed_at(self, path: str) -> str | None:
        """Return the time of the last change of a file, as `YYYYMMDDHHMMSS` in UTC; `None` if the server does not say it."""
        try:
            return self.ftp.sendcmd(f"MDTM {path}").partition(" ")[2].strip()
        except ftplib.error_perm:
            return None

    def _is_listed(self, folder: str) -> bool:
        """Return whether a folder is in the listing of the one above, because an answer does not say why it is refused."""
        parent, _, _ = folder.rpartition("/")
        return folder == "/" or any(each["name"] == folder for each in self.ls(parent))

    def _entries(self, folder: str) -> list[tuple[str, dict[str, Any]]]:
        if self._has_machine_listings:
            try:
                return list(_machine_listing(self.ftp, folder))
            except ftplib.error_perm as error:
                if error.args[0][:3] not in _NOT_IMPLEMENTED:
                    raise
                self._has_machine_listings = False
        self.ftp.cwd(folder)  # a name with a space or a dash cannot be a part of the command everywhere
        lines: list[str] = []
        self.ftp.retrlines("LIST", lines.append)
        self.ftp.cwd("/")
        return [entry for line in lines if (entry := _listed(line, folder)) is not None]


def _machine_listing(ftp: ftplib.FTP, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, facts in ftp.mlsd(folder):
        kind = facts["type"].lower()
        if name not in {".", ".."} and kind not in {"cdir", "pdir"}:
            yield name, {**facts, "type": _TYPES.get(kind, "link"), "size": int(facts.get("size", 0))}


def _listed(line: str, folder: str) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the details in a line of a listing for people; `None` for one without a file."""
    if unix := _UNIX.fullmatch(line):
        kind, size, name = unix.groups()
        name = name.partition(" -> ")[0] if kind == "l" else name
        return None if name in {".", ".."} else (name, {"type": _TYPES.get(kind, "link"), "size": int(size)})
    if windows := _WINDOWS.fullmatch(line):
        size, name = windows.groups()
        return name, {"type": "directory" if size is None else "file", "size": int(size or 0)}
    if _TOTAL.fullmatch(line.strip()):
        return None
    raise SourceError(
        "the server lists files in a format that is not known",
        got=f"{line!r} in {folder}",
        do="use a server with the command MLSD, or SFTP",
    )


class _EncryptedFtp(ftplib.FTP_TLS):
    """A connection whose transfers resume its session, as many servers require, to know that they have the same client."""

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        plain, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        session = self.sock.session if isinstance(self.sock, ssl.SSLSocket) else None
        return self.context.wrap_socket(plain, server_hostname=self.host, session=session), size
