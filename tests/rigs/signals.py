"""Who handles a signal, as the system sees it: libraries can replace Python's handler without Python's knowledge."""

from __future__ import annotations

import ctypes
from signal import Signals

_libc = ctypes.CDLL(None)


class _Action(ctypes.Structure):
    """What `sigaction` returns: the address of the handler comes first, and the rest is longer on some systems."""

    _fields_ = (("handler", ctypes.c_void_p), ("rest", ctypes.c_ubyte * 512))


class _Symbol(ctypes.Structure):
    """What `dladdr` returns."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def handler_of(number: Signals) -> str:
    """Return the file of the library whose function handles a signal; empty if it is unknown."""
    action, symbol = _Action(), _Symbol()
    _libc.sigaction(int(number), None, ctypes.byref(action))
    _libc.dladdr(ctypes.c_void_p(action.handler), ctypes.byref(symbol))
    return (symbol.file or b"").decode()
