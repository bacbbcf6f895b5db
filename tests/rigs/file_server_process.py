"""SFTP, FTP and FTPS servers over one folder, in a process of their own: prints their ports, ends when its input closes.

A second FTP server has no machine-readable listings, as vsftpd. FTP does not list folders that are called `closed`.

Its arguments are the folder, the user, the password, and a PEM file with the certificate and the key of FTPS.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from functools import partial
from pathlib import Path

import asyncssh

FOLDER, USER, PASSWORD, CERTIFICATE = sys.argv[1:]


async def serve(folder: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")

    class Login(asyncssh.SSHServer):
        def begin_auth(self, _username):
            return True

        def password_auth_supported(self):
            return True

        def validate_password(self, username, password):
            return (username, password) == (USER, PASSWORD)

    within = partial(asyncssh.SFTPServer, chroot=str(folder).encode())
    server = await asyncssh.create_server(Login, "127.0.0.1", 0, server_host_keys=[key], sftp_factory=within)
    ports = {"sftp": server.get_port(), "ftp": ftp_port(folder), "ftps": ftp_port(folder, has_tls=True)}
    ports["ftp list"] = ftp_port(folder, has_machine_listings=False)
    ports["fingerprint"] = key.get_fingerprint()
    print(json.dumps(ports), flush=True)  # noqa: T201 - the protocol of this process
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def ftp_port(folder: Path, *, has_tls: bool = False, has_machine_listings: bool = True) -> int:
    from pyftpdlib.authorizers import DummyAuthorizer  # noqa: PLC0415 - it warns about asyncore
    from pyftpdlib.filesystems import AbstractedFS  # noqa: PLC0415
    from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler  # noqa: PLC0415
    from pyftpdlib.ioloop import IOLoop  # noqa: PLC0415
    from pyftpdlib.servers import ThreadedFTPServer  # noqa: PLC0415

    def refusing(method):
        def checked(self, path):
            if path.endswith("closed"):
                raise PermissionError(13, "Failed to open directory")
            return method(self, path)

        return checked

    base = TLS_FTPHandler if has_tls else FTPHandler
    closed = {name: refusing(getattr(AbstractedFS, name)) for name in ("listdir", "chdir")}
    commands = {
        name: each for name, each in base.proto_cmds.items() if has_machine_listings or name not in {"MLSD", "MLST"}
    }
    shared = {"abstracted_fs": type("Files", (AbstractedFS,), closed), "proto_cmds": commands}
    authorizer = DummyAuthorizer()
    authorizer.add_user(USER, PASSWORD, str(folder), perm="elr")
    encrypted = {"certfile": CERTIFICATE, "tls_control_required": True, "tls_data_required": True}
    handler = type("Handler", (base,), {"authorizer": authorizer, **shared, **(encrypted if has_tls else {})})
    server = ThreadedFTPServer(("127.0.0.1", 0), handler, IOLoop())  # by default, all servers share one
    threading.Thread(target=partial(server.serve_forever, handle_exit=False), daemon=True).start()
    return int(server.address[1])


if __name__ == "__main__":
    asyncio.run(serve(Path(FOLDER)))
