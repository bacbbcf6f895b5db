"""Connections that verify the checksum of each event of the binary log, because the library leaves out events it cannot use."""

from __future__ import annotations

import zlib
from typing import Any

_LENGTH_BYTES, _DUMP = 3, b"\x00\x12"
"""The size of the length at the begin of a packet, and what follows it: the number 0, and the command for the binary log."""
_CHECKSUM_BYTES = 4


def connection_to(*, has_checksums: bool, **settings: Any) -> Any:
    """Return a connection; it raises `ValueError` for a damaged event if the server writes checksums.

    Its settings have the present name of an option that the library calls by an earlier one.
    """
    from pymysql.connections import Connection  # noqa: PLC0415 - optional dependency

    class VerifyingConnection(Connection):  # type: ignore[misc]
        """A connection of which the library reads the packets."""

        is_dumping = False

        def _write_bytes(self, data: bytes) -> None:
            self.is_dumping = has_checksums and data[_LENGTH_BYTES:].startswith(_DUMP)
            super()._write_bytes(data)

        def _read_packet(self, *arguments: Any) -> Any:
            packet = super()._read_packet(*arguments)
            if self.is_dumping and packet.is_ok_packet():
                event = packet.get_all_data()[1:]
                written = int.from_bytes(event[-_CHECKSUM_BYTES:], "little")
                if zlib.crc32(event[:-_CHECKSUM_BYTES]) != written:
                    raise ValueError("its checksum is wrong")
            return packet

    database = settings.pop("db", None)
    return VerifyingConnection(**settings, **({} if database is None else {"database": database}))
