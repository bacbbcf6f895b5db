"""Who handles a signal, as the system sees it: libraries can replace Python's handler without Python's knowledge."""

from __future__ import annotations

import ctypes
from signal import Signals

_libc = ctypes.CDLL(None)


class _Action(ctypes.Structure):
    """What `sigaction` returns: the address of the handler comes first, and the rest is longer on some systems."""

    _fields_ = (("handler", ctypes.c_void_p), ("rest", ctypes.c_ubyte * 512))


def native_handler(number: Signals) -> int | None:
    """Return the address of the function that handles a signal."""
    action = _Action()
    _libc.sigaction(int(number), None, ctypes.byref(action))
    handler: int | None = action.handler
    return handler
