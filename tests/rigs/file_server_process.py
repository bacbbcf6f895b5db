"""SFTP and FTP servers over one folder, in a process of their own: prints their ports, ends when its input closes.

Its arguments are the folder, the user and the password.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from functools import partial
from pathlib import Path

import asyncssh

FOLDER, USER, PASSWORD = sys.argv[1:]


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
    ports = {"sftp": server.get_port(), "ftp": ftp_port(folder), "fingerprint": key.get_fingerprint()}
    print(json.dumps(ports), flush=True)  # noqa: T201 - the protocol of this process
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def ftp_port(folder: Path) -> int:
    from pyftpdlib.authorizers import DummyAuthorizer  # noqa: PLC0415 - it warns about asyncore
    from pyftpdlib.handlers import FTPHandler  # noqa: PLC0415
    from pyftpdlib.servers import ThreadedFTPServer  # noqa: PLC0415

    authorizer = DummyAuthorizer()
    authorizer.add_user(USER, PASSWORD, str(folder), perm="elr")
    FTPHandler.authorizer = authorizer
    server = ThreadedFTPServer(("127.0.0.1", 0), FTPHandler)
    threading.Thread(target=partial(server.serve_forever, handle_exit=False), daemon=True).start()
    return int(server.address[1])


if __name__ == "__main__":
    asyncio.run(serve(Path(FOLDER)))
