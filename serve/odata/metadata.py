"""The documents that describe a service: the service document, and `$metadata` in XML with what can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from serve.odata.functions import FUNCTIONS
from serve.odata.model import NAMESPACE, EntitySet, Property
from serve.queries.expressions import is_nested

_EDMX = "http://docs.oasis-open.org/odata/ns/edmx"
_EDM = "http://docs.oasis-open.org/odata/ns/edm"
_CAPABILITIES = "Org.OData.Capabilities.V1"
_CORE = "Org.OData.Core.V1"
_UNSUPPORTED = {
    "ExpandRestrictions": "Expandable",
    "SearchRestrictions": "Searchable",
    "InsertRestrictions": "Insertable",
    "UpdateRestrictions": "Updatable",
    "DeleteRestrictions": "Deletable",
}


def service_document(base: str, sets: Sequence[EntitySet], *, with_context: bool) -> dict[str, object]:
    """Return the entity sets of a service."""
    entries = [{"name": each.name, "kind": "EntitySet", "url": each.name} for each in sets]
    return ({"@odata.context": f"{base}/$metadata"} if with_context else {}) | {"value": entries}


def metadata_document(sets: Sequence[EntitySet], version: str) -> bytes:
    """Return the model as CSDL in XML."""
    root = Element("edmx:Edmx", {"Version": version, "xmlns:edmx": _EDMX})
    services = SubElement(root, "edmx:DataServices")
    schema = SubElement(services, "Schema", {"Namespace": NAMESPACE, "xmlns": _EDM})
    for each in sets:
        _entity_type(schema, each)
    container = SubElement(schema, "EntityContainer", {"Name": "tables"})
    for each in sets:
        _entity_set(container, each)
    for term in ("BatchSupported", "AsynchronousRequestsSupported", "KeyAsSegmentSupported"):
        _flag(container, f"{_CAPABILITIES}.{term}", is_true=False)
    _enumeration(container, "ConformanceLevel", "ConformanceLevelType/Minimal")
    _strings(container, "FilterFunctions", sorted([*FUNCTIONS, "cast", "now"]))
    _strings(container, "SupportedFormats", ["application/json", "application/xml"])
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode").encode("utf-8")


def _entity_type(schema: Element, each: EntitySet) -> None:
    kind = SubElement(schema, "EntityType", {"Name": each.type_name})
    if each.key:
        key = SubElement(kind, "Key")
        for property_ in each.key:
            SubElement(key, "PropertyRef", {"Name": property_.name})
    for property_ in each.properties:
        _property(kind, property_)
    if each.description:
        _text(kind, f"{_CORE}.Description", each.description)


def _property(kind: Element, each: Property) -> None:
    words = {"Name": each.name, "Type": each.type, "Nullable": "false" if each.is_key else "true", **each.facets}
    element = SubElement(kind, "Property", words)
    if each.name != each.column.name:
        _text(element, f"{_CORE}.Description", each.column.name)
    if is_nested(each.column):
        _text(element, f"{_CORE}.MediaType", "application/json")


def _entity_set(container: Element, each: EntitySet) -> None:
    element = SubElement(container, "EntitySet", {"Name": each.name, "EntityType": f"{NAMESPACE}.{each.type_name}"})
    for term, property_ in _UNSUPPORTED.items():
        _record(element, term, {property_: False})
    _record(element, "CountRestrictions", {"Countable": True})
    _flag(element, f"{_CAPABILITIES}.TopSupported", is_true=True)
    _flag(element, f"{_CAPABILITIES}.SkipSupported", is_true=True)
    _flag(element, f"{_CAPABILITIES}.IndexableByKey", is_true=bool(each.key))
    _restricted(
        element,
        "FilterRestrictions",
        "Filterable",
        "NonFilterableProperties",
        [p.name for p in each.properties if p.type == "Edm.Binary"],
    )
    _restricted(
        element,
        "SortRestrictions",
        "Sortable",
        "NonSortableProperties",
        [p.name for p in each.properties if not p.is_sortable],
    )


def _restricted(element: Element, term: str, flag: str, list_: str, names: Sequence[str]) -> None:
    record = _record(element, term, {flag: True})
    value = SubElement(record, "PropertyValue", {"Property": list_})
    collection = SubElement(value, "Collection")
    for name in names:
        SubElement(collection, "PropertyPath").text = name


def _record(element: Element, term: str, flags: dict[str, bool]) -> Element:
    annotation = SubElement(element, "Annotation", {"Term": f"{_CAPABILITIES}.{term}"})
    record = SubElement(annotation, "Record")
    for name, value in flags.items():
        SubElement(record, "PropertyValue", {"Property": name, "Bool": "true" if value else "false"})
    return record


def _flag(element: Element, term: str, *, is_true: bool) -> None:
    SubElement(element, "Annotation", {"Term": term, "Bool": "true" if is_true else "false"})


def _text(element: Element, term: str, text: str) -> None:
    printable = "".join(c if c >= " " or c in "\t\n" else " " for c in text)  # what XML can represent
    SubElement(element, "Annotation", {"Term": term, "String": printable})


def _enumeration(element: Element, term: str, member: str) -> None:
    annotation = SubElement(element, "Annotation", {"Term": f"{_CAPABILITIES}.{term}"})
    SubElement(annotation, "EnumMember").text = f"{_CAPABILITIES}.{member}"


def _strings(element: Element, term: str, texts: Sequence[str]) -> None:
    annotation = SubElement(element, "Annotation", {"Term": f"{_CAPABILITIES}.{term}"})
    collection = SubElement(annotation, "Collection")
    for text in texts:
        SubElement(collection, "String").text = text
