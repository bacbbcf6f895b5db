"""What the headers of a request ask for: the version of OData, the media type and its parameters, and preferences."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from serve.http_errors import HttpError, UnacceptableError
from serve.queries.values import shown

JSON, XML, TEXT = "application/json", "application/xml", "text/plain"
MetadataLevel = Literal["none", "minimal", "full"]
_SHORT = {"json": JSON, "xml": XML}
_LEVELS: Mapping[str, MetadataLevel] = {"none": "none", "minimal": "minimal", "full": "full"}
_IGNORED = ("odata.streaming", "streaming", "charset", "exponentialdecimals")
_LEAST, _NEWEST = (4, 0), "4.01"
_Form = Callable[[Mapping[str, str]], "JsonForm | None"]


@dataclass(frozen=True)
class JsonForm:
    """The form of JSON responses."""

    metadata: MetadataLevel = "minimal"
    numbers_as_text: bool = False
    """Whether 64-bit integers and decimal numbers are texts, for clients whose numbers are floats."""

    @property
    def media_type(self) -> str:
        """The content type of a response."""
        return (
            f"{JSON};odata.metadata={self.metadata};odata.streaming=false"
            f"{';IEEE754Compatible=true' if self.numbers_as_text else ''};charset=utf-8"
        )


@dataclass(frozen=True)
class Preferences:
    """What the `Prefer` headers ask for."""

    page_size: int | None = None
    omits_nulls: bool = False
    applied: str = ""
    """The value of `Preference-Applied`."""


def version_of(headers: Mapping[str, str]) -> str:
    """Return the version of the response; raise `HttpError` if the client knows none of this service's."""
    text = headers.get("odata-maxversion", _NEWEST)
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})", text.strip())
    if match is None or (int(match[1]), 0) < _LEAST:
        raise HttpError("the service speaks OData 4.0 and 4.01", got=f"OData-MaxVersion: {shown(text)}")
    return "4.0" if (int(match[1]), int(match[2])) == _LEAST else _NEWEST


def json_form(accept: str, format_: str | None) -> JsonForm:
    """Return the form of JSON that an `Accept` header or `$format` prefers; raise `UnacceptableError` if it takes none."""
    return _best(accept, format_, JSON, _form_of)


def require_xml(accept: str, format_: str | None) -> None:
    """Raise `UnacceptableError` if a client does not take XML."""
    _best(accept, format_, XML, lambda _: JsonForm())


def preferences_of(text: str, most_rows: int) -> Preferences:
    """Return the preferences of the `Prefer` headers, joined by commas. Others than these, and wrong ones, are ignored."""
    size, omits, applied = None, False, []
    for each in re.findall(r'[^,;"]+(?:"[^"]*")?', text):
        name, _, value = (part.strip().strip('"') for part in each.partition("="))
        word = name.lower().removeprefix("odata.")
        if word == "maxpagesize" and re.fullmatch(r"[1-9]\d{0,8}", value, re.ASCII) and size is None:
            size = min(int(value), most_rows)
            applied.append(f"{name}={size}")
        elif word == "omit-values" and value.lower() == "nulls" and not omits:
            omits = True
            applied.append(f"{name}=nulls")
    return Preferences(size, omits, ", ".join(applied))


def _best(accept: str, format_: str | None, media_type: str, form: _Form) -> JsonForm:
    text = _SHORT.get(format_.lower(), format_) if format_ is not None else accept or "*/*"
    best, best_quality = None, 0.0
    for part in text.split(","):
        range_, *rest = (piece.strip().lower() for piece in part.split(";"))
        parameters = dict(_parameter(piece) for piece in rest if piece)
        quality = _quality(parameters.pop("q", "1"))
        is_match = range_ in {media_type, media_type.partition("/")[0] + "/*", "*/*"}
        asked = form(parameters) if is_match else None
        if asked is not None and quality > best_quality:
            best, best_quality = asked, quality
    if best is None:
        raise UnacceptableError("the media type is not supported", got=shown(text), do=f"accept {media_type}")
    return best


def _parameter(piece: str) -> tuple[str, str]:
    name, _, value = piece.partition("=")
    return name.strip(), value.strip().strip('"')


def _quality(text: str) -> float:
    return float(text) if re.fullmatch(r"[01](\.\d{0,3})?", text, re.ASCII) else 0.0


def _form_of(parameters: Mapping[str, str]) -> JsonForm | None:
    """Return the form with these parameters; `None` if one is not known, because such formats must be rejected."""
    level: MetadataLevel = "minimal"
    as_text = False
    for name, value in parameters.items():
        if name in {"odata.metadata", "metadata"} and value in _LEVELS:
            level = _LEVELS[value]
        elif name == "ieee754compatible" and value in {"true", "false"}:
            as_text = value == "true"
        elif name not in _IGNORED:
            return None
    return JsonForm(level, as_text)
