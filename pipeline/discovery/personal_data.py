"""Likely personal data: by the names of columns, and by patterns in a sample of their values. It says how sure it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.core.errors import quantity

Confidence = Literal["very likely", "likely", "possible"]
_MOST_MATCH = 0.8
"""The share of values that must match a pattern."""
_ENOUGH = 5
"""Fewer values are not very likely what they look like."""
_CARD_DIGITS = range(13, 20)
_NINE = 9


@dataclass(frozen=True)
class PersonalData:
    """What a column may contain about persons, how sure that is, and why."""

    kind: str
    confidence: Confidence
    why: str


@dataclass(frozen=True)
class _Rule:
    kind: str
    names: str
    """A pattern of names, which match as whole words: `first_name` is `first name`."""
    values: Callable[[str], bool] | None = None
    needs_name: bool = False
    """Whether values alone do not suffice."""


def _matching(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda text: compiled.fullmatch(text) is not None


def is_iban(text: str) -> bool:
    """Return whether a text is an IBAN with a valid check sum (ISO 13616)."""
    plain = text.replace(" ", "").upper()
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", plain):
        return False
    return int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1


def is_card_number(text: str) -> bool:
    """Return whether a text is the number of a payment card with a valid check digit (ISO/IEC 7812)."""
    digits = re.sub(r"[ -]", "", text)
    if not digits.isascii() or not digits.isdigit() or len(digits) not in _CARD_DIGITS or len(set(digits)) == 1:
        return False
    doubled = [int(each) * (1 + place % 2) for place, each in enumerate(reversed(digits))]
    return sum(each - _NINE if each > _NINE else each for each in doubled) % 10 == 0


_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IP = _matching(rf"(?:{_OCTET}\.){{3}}{_OCTET}|(?=.*::|(?:[0-9a-f]+:){{7}})[0-9a-f:]{{3,39}}")
_RULES = (
    _Rule("e-mail address", r"e ?mails?|mails?", _matching(r"[^@\s,;]+@[^@\s,;]+\.[a-z]{2,}")),
    _Rule("IBAN", r"iban|bank account", is_iban),
    _Rule("payment card number", r"(?:credit |debit |payment )?card(?: number| no)?|pan", is_card_number),
    _Rule("IP address", r"ip|ip addr(?:ess)?|remote addr", _IP),
    _Rule("phone number", r"(?:tele)?phone(?: number| no)?|mobile|tel|fax|cell", _matching(r"\+?[\d(][\d ()/.-]{5,18}\d"), needs_name=True),
    _Rule("name of a person", r"(?:first|last|full|given|family|middle|customer|contact|user|maiden) ?name|surname|vorname|nachname"),
    _Rule("date of birth", r"(?:date of )?birth(?: ?date| ?day)?|dob|birthday|geburtsdatum"),
    _Rule("postal address", r"street|address(?: line)?(?: \d)?|(?:home|postal|billing|shipping) address|zip(?: ?code)?|post ?code|city|plz|strasse"),
    _Rule("national identifier", r"ssn|social security(?: number)?|national id|passport(?: number| no)?|tax id|driver license"),
    _Rule("location", r"lat|latitude|lon|lng|longitude|geo|location|coordinates"),
    _Rule("sensitive attribute", r"gender|sex|religion|ethnicity|nationality|diagnosis|marital status|disability"),
    _Rule("credential", r"password|passwd|pwd|secret|(?:access |auth |refresh )?token|api ?key|private key"),
)  # fmt: skip


def personal_data(name: str, values: Sequence[str]) -> PersonalData | None:
    """Return what a column may contain about persons, from its name and distinct values as text; `None` if nothing."""
    words = _words(name)
    for rule in _RULES:
        is_named = re.search(rf"(?:^| )(?:{rule.names})(?:$| )", words) is not None
        matches = 0 if rule.values is None else sum(map(rule.values, values))
        share = matches / len(values) if values else 0.0
        shown = f"{share:.0%} of {quantity(len(values), 'value')} look like one"
        if share >= _MOST_MATCH and (is_named or not rule.needs_name):
            by_both = f"its name, and {shown}"
            return PersonalData(
                rule.kind,
                "very likely" if is_named and len(values) >= _ENOUGH else "likely",
                by_both if is_named else shown,
            )
        if is_named:
            return PersonalData(rule.kind, "possible", f"its name; {shown}" if rule.values and values else "its name")
    return None


def _words(name: str) -> str:
    """Return a name as words in lower case: `customerEmail` and `customer_email` are `customer email`."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.sub(r"[^a-z0-9]+", " ", apart.lower()).strip()
