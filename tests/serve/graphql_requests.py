"""Requests of GraphQL in tests, whose responses are checked for their form."""

from __future__ import annotations

PATH = "/v1/graphql"
ACCEPT = {"Accept": "application/graphql-response+json"}


def asked(client, document, status=200, **variables):
    """The body of a response, after checking its status and form."""
    answer = client.post(PATH, json={"query": document, "variables": variables}, headers=ACCEPT)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/graphql-response+json; charset=utf-8"
    return answer.json()


def data(client, document, **variables):
    body = asked(client, document, **variables)
    assert "errors" not in body, body
    return body["data"]


def error(client, document, **variables):
    """The message of the first error, whatever the status."""
    answer = client.post(PATH, json={"query": document, "variables": variables}, headers=ACCEPT)
    first = answer.json()["errors"][0]
    assert set(first) <= {"message", "locations", "path", "extensions"}
    assert set(first["extensions"]) <= {"code", "got", "do"}
    return first["message"]


def door_of(client):
    """The parts of the server that requests of GraphQL use."""
    return next(each for each in client.app.routes if getattr(each, "path", "") == PATH).endpoint.__self__
