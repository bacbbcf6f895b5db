"""An OData service on loopback with one entity set: filter by a property, next links, delta links, and metadata."""

from __future__ import annotations

import re
from typing import Any

from tests.rigs.http_faults import Received, Reply

METADATA = b"""<?xml version="1.0"?>
<edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx"><edmx:DataServices>
 <Schema Namespace="Shop.Model" Alias="Self" xmlns="http://docs.oasis-open.org/odata/ns/edm">
  <EnumType Name="Color"><Member Name="Red"/></EnumType>
  <TypeDefinition Name="Money" UnderlyingType="Edm.Decimal" Precision="12" Scale="2"/>
  <ComplexType Name="Address"><Property Name="Street" Type="Edm.String"/><Property Name="No" Type="Edm.Int16"/></ComplexType>
  <ComplexType Name="Any" OpenType="true"/>
  <EntityType Name="Base" Abstract="true"><Property Name="id" Type="Edm.Int64"/></EntityType>
  <EntityType Name="Item" BaseType="Self.Base">
   <Property Name="name" Type="Edm.String"/><Property Name="price" Type="Self.Money"/>
   <Property Name="amount" Type="Edm.Decimal" Scale="variable"/><Property Name="colors" Type="Collection(Self.Color)"/>
   <Property Name="address" Type="Shop.Model.Address"/><Property Name="more" Type="Self.Any"/>
   <Property Name="at" Type="Edm.DateTimeOffset"/><Property Name="key" Type="Edm.Guid"/>
   <Property Name="ok" Type="Edm.Boolean"/><Property Name="day" Type="Edm.Date"/><Property Name="small" Type="Edm.Byte"/>
  </EntityType>
  <EntityContainer Name="C"><EntitySet Name="items" EntityType="Self.Item"/></EntityContainer>
 </Schema></edmx:DataServices></edmx:Edmx>"""


class OdataServer:
    """Answers with pages of two entities; a change has a number, which delta links refer to."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/odata"
        self.changes: list[dict[str, Any]] = []
        self.oldest_delta = 0

    def answer(self, received: Received) -> Reply:
        skip, since = int(received.params.get("$skip", 0)), int(received.params.get("$deltatoken", 0))
        if since < self.oldest_delta:
            return Reply({"error": {"code": "gone", "message": "resync"}}, 410)
        match = re.fullmatch(r"(?:\(.*\) and )?id ge (\d+)", received.params.get("$filter", ""))
        least, until = 0 if match is None else int(match[1]), int(received.params.get("until", len(self.changes)))
        entities = [each for each in self.changes[since:until] if each["id"] >= least]
        page = {"@odata.context": "$metadata#items", "value": entities[skip : skip + 2]}
        if skip + 2 < len(entities):
            query = "&".join(f"{n}={v}" for n, v in received.params.items() if n not in {"$skip", "until"})
            page["@odata.nextLink"] = f"items?{query}&until={until}&$skip={skip + 2}"
        elif "track-changes" in received.headers.get("prefer", ""):
            page["@odata.deltaLink"] = f"{self.url}/items?$deltatoken={until}"
        return Reply(page)
