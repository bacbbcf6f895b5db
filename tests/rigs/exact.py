"""The value of a text in a type, by exact arithmetic, and texts near the limits of each type."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import random
import re
import uuid
from decimal import Decimal

MISFIT, EITHER = object(), object()
"""Not a value of the type; and a negative zero, which may be accepted or rejected, since no information is lost."""
BITS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}
BOUNDS = {
    **{name: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for name, bits in BITS.items()},
    **{f"U{name}": (0, 2**bits - 1) for name, bits in BITS.items()},
    "HUGEINT": (-(2**63), 2**63 - 1),  # stored as BIGINT in a lake
    "UHUGEINT": (0, 2**63 - 1),
}
DECIMALS = ("DECIMAL(10,2)", "DECIMAL(15,2)", "DECIMAL(4,1)", "DECIMAL(18,18)", "DECIMAL(38,0)", "DECIMAL(38,30)")
TYPES = (*BOUNDS, *DECIMALS, "DOUBLE", "DATE", "TIMESTAMP", "TIMESTAMPTZ", "TIME", "UUID", "BOOLEAN")
NUMBERS = (*BOUNDS, *DECIMALS, "DOUBLE")
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+))?\s*", re.ASCII)
_DAY = r" *0?(\d{4})([-/ \\])(\d{1,2})\2(\d{1,2})"
_CLOCK = r"(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d*))?)?"
_DATE = re.compile(rf"{_DAY}((?: +|T)0?0:0?0(:0?0(\.0*)?)?)? *", re.ASCII)
_TIMESTAMP = re.compile(rf"{_DAY}(?:(?: +|T){_CLOCK}( ?Z|[+-]\d\d(?::?\d\d)?)?)? *", re.ASCII)
_HOUR = re.compile(rf"{_DAY}[ T]\d\d(?!\d|:)", re.ASCII)
_TIME = re.compile(rf" *{_CLOCK} *", re.ASCII)
_LONGEST_EXPONENT = 400


def expected(text, kind):
    """Return the value of a text, `MISFIT`, or `EITHER`."""
    if kind in BOUNDS or kind.startswith("DECIMAL"):
        return _exact(text, kind)
    if kind == "DOUBLE":
        return _real(text)
    return _word(text, kind) if kind in {"UUID", "BOOLEAN"} else _moment(text, kind)


def _word(text, kind):
    if kind == "UUID":
        if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
            return text
        return EITHER if re.fullmatch(r"[0-9a-f]{32}", text.replace("-", "")) else MISFIT
    words = {"true": True, "t": True, "yes": True, "y": True, "1": True}
    words |= {"false": False, "f": False, "no": False, "n": False, "0": False}
    return words.get(text.lower(), MISFIT)


def _exact(text, kind):
    match = _NUMBER.fullmatch(text)
    if match is None:
        return MISFIT
    if Decimal(match[1]) == 0:
        return EITHER if kind.startswith("U") and "-" in match[1] else 0
    if match[2] and abs(int(match[2])) > _LONGEST_EXPONENT:
        return MISFIT
    with decimal.localcontext(prec=2000):
        number = Decimal(text.strip())
        if kind in BOUNDS:
            low, high = BOUNDS[kind]
            return int(number) if number == number.to_integral_value() and low <= number <= high else MISFIT
        digits, places = map(int, re.findall(r"\d+", kind))
        scaled = number.scaleb(places)
        return number if scaled == scaled.to_integral_value() and abs(scaled) < 10**digits else MISFIT


def _real(text):
    if re.fullmatch(r"\s*[+-]?(nan|inf|infinity)\s*", text, re.IGNORECASE):
        return float(text)
    match = _NUMBER.fullmatch(text)
    if match is None:
        return MISFIT
    number = float(text)
    return MISFIT if math.isinf(number) or (number == 0 and Decimal(match[1]) != 0) else number


def _moment(text, kind):
    try:
        return _time_of(text, kind)
    except (ValueError, OverflowError):
        return MISFIT


def _time_of(text, kind):
    if kind == "DATE":
        match = _DATE.fullmatch(text)
        return dt.date(int(match[1]), int(match[3]), int(match[4])) if match else MISFIT
    if kind == "TIME":
        match = _TIME.fullmatch(text)
        return MISFIT if match is None or _micros(match[4]) is None else dt.time(*_clock(match.groups()))
    match = _TIMESTAMP.fullmatch(_HOUR.sub(r"\g<0>:00", text, count=1))
    if match is None or _micros(match[8]) is None or (match[9] and kind == "TIMESTAMP"):
        return MISFIT
    clock = _clock(match.groups()[4:8])
    day = dt.datetime(int(match[1]), int(match[3]), int(match[4]), tzinfo=dt.UTC if kind == "TIMESTAMPTZ" else None)
    at = day + dt.timedelta(days=1) if clock == (24, 0, 0, 0) else day.replace(**_named(clock))
    if not match[9] or match[9].strip() == "Z":
        return at
    zone = match[9].strip().replace(":", "")
    hours, minutes = int(zone[1:3]), int(zone[3:5] or 0)
    if hours > 15 or minutes > 59:
        return MISFIT
    shift = dt.timedelta(hours=hours, minutes=minutes)
    return at - shift if zone[0] == "+" else at + shift


def _micros(digits):
    return None if (digits or "")[6:].strip("0") else int(((digits or "") + "000000")[:6])


def _clock(groups):
    hour, minute, second, digits = groups
    return int(hour or 0), int(minute or 0), int(second or 0), _micros(digits)


def _named(clock):
    return dict(zip(("hour", "minute", "second", "microsecond"), clock, strict=True))


def texts(kind, number, seed):
    """Return a number of texts near the limits of a type, many of them in another format."""
    rnd = random.Random(f"{kind} {seed}")  # noqa: S311 - reproducible
    return [_text(rnd, kind) for _ in range(number)]


_ODD = ["nan", "Infinity", "-inf", "0x1F", "1e", ".", "+", "1_000", "1_000.5", "½", "1e400", "1e-400", "0.00012e5"]
_ODD += [
    "5e-324",
    "2e-324",
    "12.345",
    "1.1000",
    "9007199254740993.5",
    "9.007199254740993e15",
    "\u0663",
    "\uff13",
    "1,5",
    "x",
]


def _text(rnd, kind):
    if kind in NUMBERS:
        return _changed(rnd, rnd.choice([*(_number(rnd, kind) for _ in range(40)), *_ODD]))
    if kind == "UUID":
        return _changed(rnd, str(uuid.UUID(int=rnd.getrandbits(128))), rarely=True)
    if kind == "BOOLEAN":
        return rnd.choice(["true", "FALSE", "t", "no", "1", "0", "2", "yes", "Y", "on", "tru", "01"])
    if kind == "TIME":
        return _changed(rnd, _clock_text(rnd) + rnd.choice(["", "", "", "Z", " PM"]), rarely=True)
    if kind == "DATE":
        tail = rnd.choice(["", "", "", "", f" {_clock_text(rnd)}", "T00:00:00", " 00:00", " (BC)", "x"])
        return _changed(rnd, _day_text(rnd) + tail, rarely=True)
    zones = ["", "", "", "Z", "+02", " +02:00", "-0530", " PM", "+17", " (BC)"]
    clock = rnd.choice([*(_clock_text(rnd) for _ in range(9)), f"{rnd.randint(0, 25):02d}"])
    return _changed(rnd, _day_text(rnd) + rnd.choice(" T ") + clock + rnd.choice(zones), rarely=True)


def _number(rnd, kind):
    low, high = BOUNDS.get(kind, (-(10**12), 10**12))
    edge = rnd.choice([low, high, 0]) + rnd.randint(-2, 2)
    wide = rnd.randint(-(10 ** rnd.randint(0, 40)), 10 ** rnd.randint(0, 40))
    text = str(rnd.choice([edge, wide, rnd.randint(-200, 300)]))
    if rnd.random() < 0.5:
        long = str(rnd.randint(0, 10 ** rnd.randint(0, 30)))
        text += "." + rnd.choice(["", "0", "00", "5", "50", "345", "1000", "0" * 20 + "1", "9" * 21, long])
    if rnd.random() < 0.1:
        text = "." + text.lstrip("-").replace(".", "")
    if rnd.random() < 0.25:
        text += rnd.choice("eE") + rnd.choice(["", "+", "-"])
        text += str(rnd.choice([0, 1, 2, 3, 5, 15, 20, 37, 38, 300, 400, 401, 999]))
    return text


def _day_text(rnd):
    year = f"{rnd.choice([rnd.randint(0, 9999), 2024, 2025, 1900, 1, 9999, 10000, 25]):0{rnd.choice([4, 4, 4, 2])}d}"
    month = f"{rnd.choice([rnd.randint(0, 13), 2, 1]):0{rnd.choice([2, 2, 1])}d}"
    day = f"{rnd.choice([rnd.randint(0, 32), 29, 1]):0{rnd.choice([2, 2, 1])}d}"
    return rnd.choice(["-", "-", "-", "/", " ", "\\"]).join([year, month, day])


def _clock_text(rnd):
    text = f"{rnd.choice([rnd.randint(0, 25), 10, 24, 0]):02d}:{rnd.choice([rnd.randint(0, 60), 0]):02d}"
    if rnd.random() < 0.8:
        text += f":{rnd.choice([rnd.randint(0, 60), 0]):02d}"
        if rnd.random() < 0.4:
            text += "." + rnd.choice(["", "1", "123456", "1234567", "1234560", "0000000001", "000"])
    return text


def _changed(rnd, text, *, rarely=False):
    for _ in range(rnd.choice([0, 0, 0, 0, 0, 1] if rarely else [0, 0, 0, 1, 1, 2])):
        at = rnd.randint(0, len(text))
        text = (
            text[:at]
            + rnd.choice([" ", "_", "0", "+", "-", ".", "x", "e", "\u0663", "\uff13", ",", ":", "T"])
            + text[at:]
        )
    return text
