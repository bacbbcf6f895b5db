"""One process at a time removes entries of a table's log and files of the table: two would remove what the other has just kept.

A process claims the maintenance by a file beside the table with the next number, which the store lets one process create.
A claim ends when its process removes it, when that process is known to have ended, which only others on its machine know, or
when its time is over. So nobody waits long for a process that was killed, and a process that was suspended stops when it goes on.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pipeline.core.clock import Clock, now
from pipeline.core.errors import ConflictError, StorageError
from pipeline.core.scratch import Owner
from pipeline.lake.storage import Storage

FOLDER = "_headwater/maintenance/"
_WAIT_S = 60.0
_held: set[str] = set()
"""The tokens of the claims of this process. It may have left others, because the store did not remove them."""


@dataclass(frozen=True)
class Claim:
    """The right to remove files of a table, until a time; `by` and `owner` say whose it is."""

    table: str
    by: str
    owner: str
    token: str
    until: dt.datetime
    clock: Clock = now

    def require(self) -> None:
        """Raise `ConflictError` if its time is over: another process may have begun."""
        if self.clock() > self.until:
            raise ConflictError(f"the maintenance of {self.table} took too long", do="run it again")

    def is_living(self, at: dt.datetime) -> bool:
        """Return whether the claim keeps others waiting."""
        owner = Owner.of_folder(self.owner)
        is_left = owner is not None and (owner.is_dead or (owner == _me() and self.token not in _held))
        return at <= self.until and not is_left


@contextmanager
def maintaining(storage: Storage, lasts: dt.timedelta, clock: Clock = now) -> Iterator[Claim]:
    """Keep other processes from maintaining the table at `storage`; call `Claim.require` before each removal.

    Raises `ConflictError` if another process maintains it.
    """
    by, token, until = f"process {os.getpid()} on {platform.node()}", secrets.token_hex(8), clock() + lasts
    claim = Claim(storage.uri, by, _me().folder, token, until, clock)
    text = {"by": by, "owner": claim.owner, "token": token, "until": until.isoformat()}
    claims = _claims(storage)
    _require_none(storage, claims, clock)
    name = f"{FOLDER}{max(map(_number, claims), default=-1) + 1:08}.json"
    if not storage.create(name, json.dumps(text).encode()):
        raise ConflictError(f"another process has just begun to maintain {storage.uri}", do="try again later")
    _held.add(token)
    try:
        others = {other: each for other, each in _claims(storage).items() if other != name}
        _require_none(storage, others, clock)  # it was faster by more than one number
        if others:
            storage.remove(list(others))
        yield claim
    finally:
        _held.discard(token)
        if clock() <= until:  # otherwise, the number may be that of another process by now
            with suppress(StorageError):  # the claim ends by itself
                storage.remove([name])


def wait_for_maintenance(storage: Storage, clock: Clock = now) -> None:
    """Wait until no maintenance runs that may have begun before a hold was placed; raise `ConflictError` after a minute."""
    give_up = time.monotonic() + _WAIT_S
    while True:
        try:
            _require_none(storage, _claims(storage), clock)
        except ConflictError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)
        else:
            return


def _require_none(storage: Storage, claims: Mapping[str, Claim], clock: Clock) -> None:
    """Raise `ConflictError` if one of the claims keeps others waiting."""
    living = [claim for claim in claims.values() if claim.is_living(clock())]
    if living:
        raise ConflictError(
            f"{storage.uri} is being maintained",
            got=f"{living[0].by}, until {living[0].until.isoformat(timespec='seconds')}",
            do="try again later",
        )


def _claims(storage: Storage) -> dict[str, Claim]:
    """Return all claims by the names of their files."""
    claims = {}
    for name, text in storage.read_existing(storage.names(FOLDER)).items():
        parts = json.loads(text)
        until = dt.datetime.fromisoformat(parts["until"])
        claims[name] = Claim(storage.uri, parts["by"], parts["owner"], parts["token"], until)
    return claims


def _me() -> Owner:
    return Owner.of_process(os.getpid())


def _number(name: str) -> int:
    return int(name.removeprefix(FOLDER).removesuffix(".json"))
