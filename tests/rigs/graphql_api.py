"""A GraphQL API on loopback, executed by graphql-core: a connection of items, in pages of `first`."""

from __future__ import annotations

from typing import Any

from graphql import build_schema, graphql_sync

from tests.rigs.http_faults import Received, Reply

SCHEMA = """
type Item { id: Int!, name: String, tags: [String!]!, owner: Owner }
type Owner { name: String, mail: String }
type PageInfo { hasNextPage: Boolean!, endCursor: String }
type Edge { cursor: String!, node: Item }
type Items { nodes: [Item]!, edges: [Edge!]!, pageInfo: PageInfo! }
type Shop { items(first: Int = 2, after: String, since: Int = 0): Items!, all: [Item!]! }
type Query { shop: Shop! }
"""
NODES = """
query ($after: String, $since: Int) {
  shop { items(after: $after, since: $since) { nodes { id name } pageInfo { hasNextPage endCursor } } }
}
"""


class GraphqlServer:
    """Answers queries about its items."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.schema = build_schema(SCHEMA)

    def answer(self, received: Received) -> Reply:
        asked = received.json
        result = graphql_sync(
            self.schema,
            asked["query"],
            {"shop": {"all": self.items, "items": lambda _, **asked: self.page(**asked)}},
            variable_values=asked.get("variables"),
        )
        return Reply(result.formatted)

    def page(self, first: int, since: int, after: str | None = None) -> dict[str, Any]:
        rows = [item for item in self.items if item["id"] >= since]
        begin = 0 if after is None else int(after.removeprefix("after-"))
        page, end = rows[begin : begin + first], begin + first
        info = {"hasNextPage": end < len(rows), "endCursor": f"after-{end}" if page else None}
        return {"nodes": page, "edges": [{"cursor": "c", "node": row} for row in page], "pageInfo": info}
