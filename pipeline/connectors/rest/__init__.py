"""REST APIs as a source: the styles of pagination, credentials, and descriptions by OpenAPI."""

from pipeline.connectors.http.credentials import ApiKey, Basic, Bearer, Hmac, OAuth2
from pipeline.connectors.rest.openapi import openapi
from pipeline.connectors.rest.pages import (
    BodyCursor,
    HeaderCursor,
    LinkHeader,
    NextUrl,
    Offset,
    PageNumber,
    RangeHeader,
    SinglePage,
)

__all__ = [
    "ApiKey",
    "Basic",
    "Bearer",
    "BodyCursor",
    "HeaderCursor",
    "Hmac",
    "LinkHeader",
    "NextUrl",
    "OAuth2",
    "Offset",
    "PageNumber",
    "RangeHeader",
    "SinglePage",
    "openapi",
]
