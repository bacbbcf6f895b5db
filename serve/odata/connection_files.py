"""Files that open the service in Power BI (`.pbids`) and one of its entity sets in Excel (`.odc`). They contain no key."""

from __future__ import annotations

import json
from xml.etree.ElementTree import Element, SubElement, tostring

PBIDS, ODC = "application/json", "text/x-ms-odc"
_OFFICE, _CONNECTION = "urn:schemas-microsoft-com:office:office", "urn:schemas-microsoft-com:office:odc"
_HTML = "http://www.w3.org/TR/REC-html40"


def pbids(base: str) -> bytes:
    """Return the file with which Power BI Desktop asks for a sign-in and shows the tables."""
    details = {"protocol": "odata", "address": {"url": base}}
    file = {"version": "0.1", "connections": [{"details": details, "options": {}, "mode": "Import"}]}
    return json.dumps(file, indent=2).encode()


def odc(base: str, name: str) -> bytes:
    """Return the file with which Excel reads an entity set by a Power Query, in Microsoft's format ODCFF."""
    html = Element("html", {"xmlns": _HTML, "xmlns:o": _OFFICE, "xmlns:odc": _CONNECTION})
    head = SubElement(html, "head")
    SubElement(head, "meta", {"http-equiv": "Content-Type", "content": f"{ODC}; charset=utf-8"})
    SubElement(head, "meta", {"name": "ProgId", "content": "ODC.Database"})
    SubElement(head, "meta", {"name": "SourceType", "content": "OLEDB"})
    SubElement(head, "title").text = f"Query - {name}"
    document = SubElement(SubElement(head, "xml", {"id": "docprops"}), "o:DocumentProperties", {"xmlns": _HTML})
    SubElement(document, "o:Name").text = name
    connection = SubElement(SubElement(head, "xml", {"id": "msodc"}), "odc:OfficeDataConnection", {"xmlns": _HTML})
    query = SubElement(connection, "odc:PowerQueryConnection", {"odc:Type": "OLEDB"})
    source = f"Provider=Microsoft.Mashup.OleDb.1;Data Source=$Workbook$;Location={name}"
    SubElement(query, "odc:ConnectionString").text = source
    SubElement(query, "odc:CommandType").text = "SQL"
    SubElement(query, "odc:CommandText").text = f"SELECT * FROM [{name}]"
    SubElement(connection, "odc:PowerQueryMashupData").text = _mashup(base, name)
    return tostring(html, encoding="unicode").encode()


def _mashup(base: str, name: str) -> str:
    url, table = base.replace('"', '""'), name.replace('"', '""')
    formula = (
        f'let Source = OData.Feed("{url}", null, [Implementation="2.0"]), '
        f'Rows = Source{{[Name="{table}",Signature="table"]}}[Data] in Rows'
    )
    mashup = Element("Mashup", {
        "xmlns:xsd": "http://www.w3.org/2001/XMLSchema",
        "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
        "xmlns": "http://schemas.microsoft.com/DataMashup",
    })  # fmt: skip
    words = {"Client": "EXCEL", "Version": "2.83.5894.761", "MinVersion": "2.21.0.0", "Culture": "en-US"}
    for word, text in {**words, "SafeCombine": "true"}.items():
        SubElement(mashup, word).text = text
    query = SubElement(SubElement(mashup, "Items"), "Query", {"Name": name})
    SubElement(query, "Formula").text = formula
    for word in ("IsParameterQuery", "IsDirectQuery"):
        SubElement(query, word, {"xsi:nil": "true"})
    return tostring(mashup, encoding="unicode")
