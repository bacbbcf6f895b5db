"""Snowflake's errors by their numbers, as errors of Headwater that say what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.core.errors import HeadwaterError, StorageError, StorageUnavailableError

_NUMBER = re.compile(r"\b(\d{6})\b")
_QUERY_ID = re.compile(r"^\(\d+\): (?:[0-9a-f-]{36}: )?")


@dataclass(frozen=True)
class _Meaning:
    problem: str
    do: str
    is_passing: bool = False
    """Whether the same call can succeed later without a change."""


_LOGIN_FAILED = _Meaning(
    "Snowflake rejects the sign-in",
    "check the user, and that its public key is registered: describe user NAME shows RSA_PUBLIC_KEY_FP",
)
_TOKEN = _Meaning("the token of Snowflake has expired or is invalid", "issue a new token where the setting names it")
_SESSION = _Meaning("the session of Snowflake ended", "run again: nothing of this load is visible", is_passing=True)
_NETWORK = _Meaning(
    "Snowflake cannot be reached", "check the account in `warehouse` and the network, and run again", is_passing=True
)
_ABSENT = _Meaning(
    "an object of Snowflake does not exist, or the role may not use it",
    "check database, schema, warehouse and role in `warehouse` of headwater.toml; `headwater warehouse plan` shows the grants",
)
_FORBIDDEN = _Meaning(
    "the role of the warehouse lacks a privilege",
    "grant it, or set another role= in `warehouse`; `headwater warehouse plan` shows the grants",
)
_SUSPENDED = _Meaning(
    "the virtual warehouse is suspended", "resume it, or let it resume: alter warehouse NAME set auto_resume = true"
)
_MEANINGS = {
    250001: _NETWORK,
    250003: _NETWORK,
    251001: _NETWORK,
    290500: _Meaning("Snowflake answered with an internal error", "run again", is_passing=True),
    290503: _NETWORK,
    290504: _NETWORK,
    390100: _LOGIN_FAILED,
    390101: _Meaning("Snowflake asks for a second factor", "use a key pair: private_key=file:PATH"),
    390102: _Meaning("the user of the warehouse is disabled", "enable it: alter user NAME set disabled = false"),
    390111: _SESSION,
    390112: _SESSION,
    390114: _SESSION,
    390144: _Meaning(
        "Snowflake rejects the key pair",
        "register the public key: alter user NAME set rsa_public_key = '...'; also check user, account and the clock",
    ),
    390186: _Meaning("the role is not granted to the user", "grant it: grant role ROLE to user NAME"),
    390189: _Meaning("the role does not exist, or may not be used", "check role= in `warehouse`"),
    390195: _TOKEN,
    390198: _TOKEN,
    390201: _ABSENT,
    390303: _TOKEN,
    390318: _TOKEN,
    390422: _Meaning("a network policy of Snowflake blocks this address", "allow it, or run where it is allowed"),
    606: _Meaning("no virtual warehouse is selected", "add warehouse=NAME to `warehouse` in headwater.toml"),
    608: _SUSPENDED,
    625: _Meaning("another load holds a lock for too long", "run again", is_passing=True),
    630: _Meaning("a statement exceeded Snowflake's time limit", "raise statement_timeout_in_seconds, or the size"),
    666: _Meaning("the Snowflake account is suspended", "ask its administrator"),
    2003: _ABSENT,
    2043: _ABSENT,
    3001: _FORBIDDEN,
    90073: _Meaning(
        "the virtual warehouse is out of credits: its resource monitor is at the quota",
        "raise the quota, or wait for the next period; the next run loads what is missing",
    ),
    90105: _ABSENT,
    90106: _ABSENT,
    100090: _Meaning(
        "two rows of one key were staged for a MERGE", "recompute the table: headwater run --full --select NAME"
    ),
}


def number_of(error: BaseException) -> int | None:
    """Return Snowflake's number of an error of the connector or of Snowpark."""
    for attribute in ("errno", "sql_error_code"):
        number = getattr(error, attribute, None)
        if isinstance(number, int) and number > 0:
            return number
    match = _NUMBER.search(str(error))
    return int(match[1]) if match else None


def translated(error: BaseException, location: str) -> HeadwaterError:
    """Return the error for an exception of the connector or of Snowpark; unknown numbers are shown as they are."""
    number = number_of(error)
    words = _QUERY_ID.sub("", str(error).strip()).partition("\n")
    text = " ".join(part.strip() for part in (words[0], words[2].partition("\n")[0]) if part.strip())
    meaning = _MEANINGS.get(number or 0)
    if meaning is None and "is suspended" in text:
        meaning = _SUSPENDED
    if meaning is None:
        return StorageError(f"Snowflake rejects a statement of the warehouse {location}", got=text)
    kind = StorageUnavailableError if meaning.is_passing else StorageError
    return kind(f"{meaning.problem} ({location})", got=text, do=meaning.do)
