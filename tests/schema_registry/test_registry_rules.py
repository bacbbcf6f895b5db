"""Which changes of a schema are compatible: a table for each type, and for JSON a search for documents that disprove it."""

from __future__ import annotations

import base64
import json

import jsonschema
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.schema_registry import protobuf_schemas
from pipeline.schema_registry.compatibility import problems_with, versions_to_check
from pipeline.schema_registry.errors import RegistryError
from pipeline.schema_registry.parsing import parse
from pipeline.schema_registry.schemas import ParsedSchema, Reference, SchemaText
from tests.rigs.proofs import PROOFS


def parsed(schema: object, kind: str = "AVRO") -> ParsedSchema:
    text = schema if isinstance(schema, str) and kind == "PROTOBUF" else json.dumps(schema)
    return parse(SchemaText(text, kind), lambda _: None)


def record(*fields: tuple, **more: object) -> dict:
    named = [{"name": name, "type": kind, **(rest[0] if rest else {})} for name, kind, *rest in fields]
    return {"type": "record", "name": "R", "fields": named, **more}


def decimal(scale: int) -> dict:
    return {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": scale}


AVRO = {
    "the same": (record(("a", "int")), record(("a", "int")), True),
    "promoted": (record(("a", "double")), record(("a", "int")), True),
    "narrowed": (record(("a", "int")), record(("a", "long")), False),
    "text from bytes": (record(("a", "string")), record(("a", "bytes")), True),
    "field removed": (record(("a", "int")), record(("a", "int"), ("b", "int")), True),
    "field without default": (record(("a", "int"), ("b", "int")), record(("a", "int")), False),
    "field with default": (record(("a", "int"), ("b", "int", {"default": 1})), record(("a", "int")), True),
    "renamed by alias": (record(("b", "int", {"aliases": ["a"]})), record(("a", "int")), True),
    "symbol removed": ({"type": "enum", "name": "E", "symbols": ["A"]}, {"type": "enum", "name": "E", "symbols": ["A", "B"]}, False),
    "symbol added": ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, {"type": "enum", "name": "E", "symbols": ["A"]}, True),
    "symbol removed with default": ({"type": "enum", "name": "E", "symbols": ["A"], "default": "A"}, {"type": "enum", "name": "E", "symbols": ["A", "B"]}, True),
    "union widened": (record(("a", ["null", "int"])), record(("a", "int")), True),
    "union narrowed": (record(("a", "int")), record(("a", ["null", "int"])), False),
    "another name": ({"type": "record", "name": "S", "fields": []}, {"type": "record", "name": "R", "fields": []}, False),
    "another scale": (record(("a", decimal(3))), record(("a", decimal(2))), False),
    "another precision": (record(("a", {**decimal(2), "precision": 12})), record(("a", decimal(2))), True),
    "another unit": (record(("a", {"type": "long", "logicalType": "timestamp-micros"})), record(("a", {"type": "long", "logicalType": "timestamp-millis"})), False),
    "a time from a number": (record(("a", {"type": "long", "logicalType": "timestamp-micros"})), record(("a", "long")), False),
    "another unit in a list": (record(("a", {"type": "array", "items": {"type": "int", "logicalType": "date"}})), record(("a", {"type": "array", "items": "int"})), False),
    "another scale in a union": (record(("a", ["null", decimal(3)])), record(("a", ["null", decimal(2)])), False),
    "a documented number": (record(("a", {"type": "int", "doc": "x"})), record(("a", "int")), True),
    "a text that is a uuid": (record(("a", {"type": "string", "logicalType": "uuid"})), record(("a", "string")), True),
}  # fmt: skip


@pytest.mark.parametrize("what", AVRO)
def test_avro(what):
    new, old, is_compatible = AVRO[what]
    assert (not parsed(new).problems(parsed(old))) == is_compatible


def closed(properties: dict, **more: object) -> dict:
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


def open_(properties: dict, **more: object) -> dict:
    return {"type": "object", "properties": properties, **more}


INT, TEXT = {"type": "integer"}, {"type": "string"}
NODE = {
    "$ref": "#/definitions/n",
    "definitions": {"n": {"type": "object", "properties": {"v": INT, "next": {"$ref": "#/definitions/n"}}}},
}
NODE_OF_NUMBERS = json.loads(json.dumps(NODE).replace("integer", "number"))
BESIDE = json.loads(json.dumps(NODE).replace('"next": {', '"next": {"minProperties": 1, '))
BESIDE_NUMBERS = json.loads(json.dumps(BESIDE).replace("integer", "number"))
JSON = {
    "property added to an open model": (open_({"a": INT, "b": TEXT}), open_({"a": INT}), False),
    "any property added to an open model": (open_({"a": INT, "b": {}}), open_({"a": INT}), True),
    "property added to a closed model": (closed({"a": INT, "b": TEXT}), closed({"a": INT}), True),
    "property removed from an open model": (open_({"a": INT}), open_({"a": INT, "b": TEXT}), True),
    "property removed from a closed model": (closed({"a": INT}), closed({"a": INT, "b": TEXT}), False),
    "property that others covered": (open_({"a": INT, "b": TEXT}, additionalProperties=TEXT), open_({"a": INT}, additionalProperties=TEXT), True),
    "property that a pattern covered": (open_({"b_x": {"type": "number"}}, additionalProperties=False, patternProperties={"^b_": {"type": "number"}}), open_({}, additionalProperties=False, patternProperties={"^b_": INT}), True),
    "model opened": (open_({"a": INT}), closed({"a": INT}), True),
    "model closed": (closed({"a": INT}), open_({"a": INT}), False),
    "required without default": (closed({"a": INT}, required=["a"]), closed({"a": INT}), False),
    "required with default": (closed({"a": {**INT, "default": 1}}, required=["a"]), closed({"a": INT}), True),
    "no longer required": (closed({"a": INT}), closed({"a": INT}, required=["a"]), True),
    "enum widened": ({"enum": [1, 2, 3]}, {"enum": [1, 2]}, True),
    "enum narrowed": ({"enum": [1]}, {"enum": [1, 2]}, False),
    "constant to enum": ({"enum": [1, 2]}, {"const": 1}, True),
    "true is not one": ({"enum": [1]}, {"enum": [True]}, False),
    "integer to number": ({"type": "number"}, INT, True),
    "number to integer": (INT, {"type": "number"}, False),
    "type added": ({"type": ["integer", "null"]}, INT, True),
    "type removed": (INT, {"type": ["integer", "null"]}, False),
    "minimum raised": ({**INT, "minimum": 2}, {**INT, "minimum": 1}, False),
    "minimum lowered": ({**INT, "minimum": 0}, {**INT, "minimum": 1}, True),
    "minimum to exclusive": ({**INT, "exclusiveMinimum": 0}, {**INT, "minimum": 1}, True),
    "maximum removed": (INT, {**INT, "maximum": 1}, True),
    "multiple divided": ({**INT, "multipleOf": 2}, {**INT, "multipleOf": 4}, True),
    "multiple changed": ({**INT, "multipleOf": 3}, {**INT, "multipleOf": 4}, False),
    "pattern added": ({**TEXT, "pattern": "a"}, TEXT, False),
    "pattern removed": (TEXT, {**TEXT, "pattern": "a"}, True),
    "union extended": ({"anyOf": [INT, TEXT]}, {"anyOf": [INT]}, True),
    "union from one": ({"oneOf": [INT, TEXT]}, INT, True),
    "union narrowed": ({"anyOf": [INT]}, {"anyOf": [INT, TEXT]}, False),
    "conjunction narrowed": ({"allOf": [INT]}, {"allOf": [INT, {"minimum": 1}]}, True),
    "conjunction extended": ({"allOf": [INT, {"minimum": 1}]}, {"allOf": [INT]}, False),
    "items widened": ({"type": "array", "items": {"type": "number"}}, {"type": "array", "items": INT}, True),
    "tuple shortened": ({"type": "array", "prefixItems": [INT]}, {"type": "array", "prefixItems": [INT, INT]}, True),
    "tuple lengthened": ({"type": "array", "prefixItems": [INT, INT]}, {"type": "array", "prefixItems": [INT]}, False),
    "unique": ({"type": "array", "uniqueItems": True}, {"type": "array"}, False),
    "negation added": ({"not": INT}, {}, False),
    "negation narrowed": ({"not": INT}, {"not": {"type": "number"}}, True),
    "anything to something": (INT, True, False),
    "something to anything": (True, INT, True),
    "nothing to something": (INT, False, True),
    "a tree widened": (NODE_OF_NUMBERS, NODE, True),
    "a tree narrowed": (NODE, NODE_OF_NUMBERS, False),
    "a tree with more keywords widened": (BESIDE_NUMBERS, BESIDE, True),
    "a tree with more keywords narrowed": (BESIDE, BESIDE_NUMBERS, False),
    "a tree with more keywords": (BESIDE, BESIDE, True),
    "keyword beside a reference": ({"$ref": "#/$defs/a", "$defs": {"a": {**INT, "minimum": 5}}, "minimum": 1}, {**INT, "minimum": 1}, False),
    "anchor": ({"$ref": "#a", "$defs": {"x": {"$anchor": "a", **INT}}}, INT, False),
    "anchor that was the document": ({"properties": {"x": {"$ref": "#a"}}, "$defs": {"x": {"$anchor": "a", **INT}}}, {"properties": {"x": {"type": "object"}}}, False),
    "unresolved": ({"$ref": "none.json"}, TEXT, False),
    "unresolved pointer": ({"$ref": "#/$defs/none"}, TEXT, False),
    "unresolved before": (INT, {"$ref": "none.json"}, False),
    "reference to itself": ({"$ref": "#"}, TEXT, False),
    "pointer into a list": ({"$ref": "#/$defs/a/allOf/0", "$defs": {"a": {"allOf": [INT]}}}, INT, True),
    "escaped pointer": ({"$ref": "#/$defs/a%25~1b", "$defs": {"a%/b": INT}}, INT, True),
    "own name": ({"$id": "https://x/y", "$ref": "https://x/y#/$defs/a", "$defs": {"a": INT}}, INT, True),
    "dynamic reference": ({"$dynamicRef": "#n"}, TEXT, False),
    "reference in a negation": ({"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "number"}}}, {"not": {"$ref": "#/$defs/a"}, "$defs": {"a": INT}}, False),
    "title changed": ({**INT, "title": "b"}, {**INT, "title": "a"}, True),
}  # fmt: skip


@pytest.mark.parametrize("what", JSON)
def test_json(what):
    new, old, is_compatible = JSON[what]
    assert (not parsed(new, "JSON").problems(parsed(old, "JSON"))) == is_compatible


def test_a_reference_of_a_referenced_document_means_that_document():
    def line(kind: dict) -> ParsedSchema:
        text = json.dumps({"properties": {"n": {"$ref": "#/$defs/x"}}, "$defs": {"x": kind}})
        main = SchemaText('{"$ref": "line.json"}', "JSON", (Reference("line.json", "line", 1),))
        return parse(main, lambda _: SchemaText(text, "JSON"))

    assert line(INT).problems(line(TEXT)) == ["#/properties/n/type: string is not valid any more"]
    assert not line({"type": "number"}).problems(line(INT))


DEEP = {f"l{n}": {"anyOf": [{"properties": {"x": {"$ref": f"#/$defs/l{n + 1}"}}}] * 2} for n in range(30)}


@pytest.mark.parametrize(
    ("new", "old", "why"),
    [
        ({"patternProperties": {"(": INT}, "properties": {"a": INT}}, {"properties": {"b": INT}}, "is not one of RE2"),
        ({"minimum": "a"}, {"minimum": 1}, "cannot be compared with another version"),
        ({"required": 7}, {}, "cannot be compared with another version"),
        ({"$ref": "#/$defs/l0", "$defs": {**DEEP, "l30": INT}}, {"$ref": "#/$defs/l0", "$defs": {**DEEP, "l30": TEXT}}, "too many combinations"),
    ],
    ids=["pattern", "minimum", "required", "combinations"],
)  # fmt: skip
def test_schemas_that_cannot_be_compared_are_invalid(new, old, why):
    with pytest.raises(RegistryError, match=why) as error:
        parsed(new, "JSON").problems(parsed(old, "JSON"))
    assert error.value.code == 42201


def test_a_pattern_takes_linear_time():
    pattern = {"patternProperties": {"^(a+)+$": INT}}
    name = "a" * 100 + "!"
    assert parsed({**pattern, "properties": {name: TEXT}}, "JSON").problems(parsed(pattern, "JSON"))


NAMES = st.sampled_from(["a", "b", "ab"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 4), st.sampled_from([0.5, 1.0]), st.sampled_from(["", "a", "abc"])
)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=4
)


def schemas(inner: st.SearchStrategy) -> st.SearchStrategy:
    limits = {key: st.integers(0, 3) for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")}  # fmt: skip
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object", ["integer", "string"]]),
            "enum": st.lists(SCALARS, min_size=1, max_size=3),
            "const": SCALARS,
            "properties": st.dictionaries(NAMES, inner, max_size=2),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$"]), inner, max_size=1),
            "additionalProperties": inner,
            "required": st.lists(NAMES, max_size=2, unique=True),
            "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=1), max_size=1),
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "uniqueItems": st.booleans(),
            "multipleOf": st.sampled_from([1, 2, 0.5]),
            "pattern": st.sampled_from(["a", "^a"]),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            **limits,
        },
    )  # fmt: skip


SCHEMAS = st.recursive(st.booleans() | schemas(st.booleans()), schemas, max_leaves=4)


@settings(deadline=None, max_examples=3000 if PROOFS else 300)
@given(SCHEMAS, st.data())
def test_no_document_disproves_that_a_json_schema_is_compatible(old, data):
    new = data.draw(SCHEMAS | changed(old))
    if parsed(new, "JSON").problems(parsed(old, "JSON")):
        return
    before, after = jsonschema.Draft202012Validator(old), jsonschema.Draft202012Validator(new)
    for document in data.draw(st.lists(DOCUMENTS, min_size=5, max_size=20)):
        assert not before.is_valid(document) or after.is_valid(document), document


@st.composite
def changed(draw, schema):
    """Return a schema with one keyword removed or replaced, at any depth."""
    if not isinstance(schema, dict) or not schema:
        return draw(st.booleans())
    key = draw(st.sampled_from(sorted(schema)))
    others = {name: value for name, value in schema.items() if name != key}
    if draw(st.booleans()):
        return others
    value = schema[key]
    if isinstance(value, dict) and value and key in {"properties", "patternProperties"}:
        name = draw(st.sampled_from(sorted(value)))
        return {**others, key: {**value, name: draw(changed(value[name]))}}
    if isinstance(value, dict) and key in {"properties", "patternProperties"}:
        return others
    if isinstance(value, dict):
        return {**others, key: draw(changed(value))} if key != "dependentRequired" else others
    return {**others, **draw(schemas(st.booleans()).filter(lambda each: key in each).map(lambda each: {key: each[key]}))} if draw(st.booleans()) else schema  # fmt: skip


def proto(*lines: str, package: str = "shop") -> str:
    return "\n".join(['syntax = "proto3";', f"package {package};", *lines])


PROTOBUF = {
    "the same": (["message A { int32 x = 1; }"], ["message A { int32 x = 1; }"], True),
    "field added": (["message A { int32 x = 1; string y = 2; }"], ["message A { int32 x = 1; }"], True),
    "field removed": (["message A { }"], ["message A { int32 x = 1; }"], True),
    "field renamed": (["message A { int32 z = 1; }"], ["message A { int32 x = 1; }"], True),
    "number changed": (["message A { int32 x = 2; }"], ["message A { int32 x = 1; }"], True),
    "message added": (["message A { }", "message B { }"], ["message A { }"], True),
    "message removed": (["message A { }"], ["message A { }", "message B { }"], False),
    "inner message removed": (["message A { }"], ["message A { message B { } }"], False),
    "same encoding": (["message A { int64 x = 1; }"], ["message A { uint32 x = 1; }"], True),
    "text to bytes": (["message A { bytes x = 1; }"], ["message A { string x = 1; }"], True),
    "zigzag": (["message A { sint32 x = 1; }"], ["message A { int32 x = 1; }"], False),
    "another type": (["message A { string x = 1; }"], ["message A { int32 x = 1; }"], False),
    "another message": (["message B { } message C { } message A { C x = 1; }"], ["message B { } message C { } message A { B x = 1; }"], False),
    "enum to number": (["enum E { Z = 0; } message A { int32 x = 1; }"], ["enum E { Z = 0; } message A { E x = 1; }"], True),
    "enum constant added": (["enum E { Z = 0; Y = 1; }"], ["enum E { Z = 0; }"], True),
    "text repeated": (["message A { repeated string x = 1; }"], ["message A { string x = 1; }"], True),
    "number repeated": (["message A { repeated int32 x = 1; }"], ["message A { int32 x = 1; }"], False),
    "one into a new oneof": (["message A { oneof o { int32 x = 1; } }"], ["message A { int32 x = 1; }"], True),
    "two into a new oneof": (["message A { oneof o { int32 x = 1; int32 y = 2; } }"], ["message A { int32 x = 1; int32 y = 2; }"], False),
    "into an existing oneof": (["message A { oneof o { int32 y = 2; int32 x = 1; } }"], ["message A { int32 x = 1; oneof o { int32 y = 2; } }"], False),
    "out of a oneof that stays": (["message A { int32 x = 1; oneof o { int32 y = 2; } }"], ["message A { oneof o { int32 x = 1; int32 y = 2; } }"], False),
    "removed from a oneof that stays": (["message A { oneof o { int32 y = 2; } }"], ["message A { oneof o { int32 x = 1; int32 y = 2; } }"], False),
    "map": (["message A { map<string, int64> m = 1; }"], ["message A { map<string, int64> m = 1; }"], True),
}  # fmt: skip


@pytest.mark.parametrize("what", PROTOBUF)
def test_protobuf(what):
    new, old, is_compatible = PROTOBUF[what]
    assert (not parsed(proto(*new), "PROTOBUF").problems(parsed(proto(*old), "PROTOBUF"))) == is_compatible


def test_a_protobuf_package_is_part_of_the_names():
    new, old = (parsed(proto("message A { }", package=name), "PROTOBUF") for name in "ab")
    assert new.problems(old) == ["the package changed from 'b' to 'a'"]


EVERYTHING = """syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
message Order {
  int64 id = 1;
  optional string note = 2;
  repeated int32 tags = 3 [packed = false];
  map<string, .shop.Order.Line> lines = 4;
  oneof paid {
    double cash = 5;
    string card = 6 [deprecated = true];
  }
  .google.protobuf.Timestamp at = 7;
  .shop.State state = 8;
  message Line {
    string sku = 1;
  }
  enum Kind {
    NONE = 0;
  }
  reserved 20 to 30;
  reserved 40;
  reserved "old";
}
enum State {
  option allow_alias = true;
  NEW = 0;
  FRESH = 0;
  OLD = -1;
}
"""


def test_the_text_of_a_descriptor_describes_the_same():
    schema = parsed(EVERYTHING, "PROTOBUF")
    assert schema.text == EVERYTHING
    assert parsed(schema.serialized, "PROTOBUF") == schema
    assert FileDescriptorProto.FromString(base64.b64decode(schema.serialized)).package == "shop"
    shuffled = parsed(proto("message B { string b = 2; int32 a = 1; }", "message A { }"), "PROTOBUF")
    assert (
        shuffled.normalized
        == parsed(proto("message A { }", "message B { int32 a = 1; string b = 2; }"), "PROTOBUF").normalized
    )


def test_imports_are_references():
    known = {"line.proto": SchemaText(proto("message Line { string sku = 1; }"), "PROTOBUF")}
    text = proto('import "line.proto";', "message Order { Line line = 1; }")
    schema = parse(SchemaText(text, "PROTOBUF", (Reference("line.proto", "line", 1),)), lambda r: known[r.name])
    assert "  .shop.Line line = 1;" in schema.text
    with pytest.raises(RegistryError, match="protoc cannot compile it"):
        parsed(text, "PROTOBUF")
    outside = (Reference("../line.proto", "line", 1),)
    with pytest.raises(RegistryError, match=r"the reference '\.\./line\.proto' is not a relative path"):
        parse(SchemaText(text, "PROTOBUF", outside), lambda _: known["line.proto"])


@pytest.mark.parametrize(
    ("kind", "text"),
    [("AVRO", "{"), ("AVRO", '{"type": "recrod"}'), ("AVRO", '"no_such_type"'), ("JSON", "["), ("JSON", "7"), ("JSON", '{"properties": {"a": 7}}'), ("JSON", '{"properties": true}'), ("JSON", '{"anyOf": {}}'), ("JSON", '{"items": 7}'), ("JSON", '{"multipleOf": 0}'), ("JSON", '{"items": {"multipleOf": "a"}}'), ("JSON", '{"minimum": NaN}'), ("JSON", '{"not":' * 100_000), ("PROTOBUF", "message {")],
)  # fmt: skip
def test_invalid_schemas_are_refused(kind, text):
    with pytest.raises(RegistryError, match="Invalid schema") as error:
        parse(SchemaText(text, kind), lambda _: None)
    assert (error.value.code, error.value.status) == (42201, 422)


def test_normalized_avro_ignores_layout_only():
    one = parsed({"type": "record", "name": "R", "fields": [{"type": {"type": "int"}, "name": "a"}]})
    other = parsed({"name": "R", "fields": [{"name": "a", "type": "int"}], "type": "record"})
    assert one.normalized == other.normalized
    assert one.text != other.text


def test_levels_name_versions_and_directions():
    narrow, wide = parsed(record(("a", "int"))), parsed(record(("a", "long")))
    assert problems_with("BACKWARD", wide, [(1, narrow)]) == []
    assert problems_with("FORWARD", narrow, [(1, wide)]) == []
    assert problems_with("FULL", wide, [(1, narrow)]) != []
    assert problems_with("NONE", narrow, [(1, wide)]) == []
    assert list(versions_to_check("BACKWARD", [1, 2, 3])) == [3]
    assert list(versions_to_check("FULL_TRANSITIVE", [1, 2, 3])) == [1, 2, 3]
    assert list(versions_to_check("NONE", [1, 2, 3])) == []
    assert parsed(record(("a", "int"))).problems(parsed({}, "JSON")) == ["the type of the schema changed"]


LINE = proto("message Line { string sku = 1; }")


def refers(name: str, text: str | None = None) -> ParsedSchema:
    text = proto("message Order { }") if text is None else text
    return parse(SchemaText(text, "PROTOBUF", (Reference(name, "line", 1),)), lambda _: SchemaText(LINE, "PROTOBUF"))


@pytest.mark.parametrize("name", ["--python_out={}", "--dependency_out={}/d", "--descriptor_set_out={}/d.proto", "-I{}", "@{}/words", "{}/line.proto", "a/../../line.proto", "a/--python_out={}/b.proto", "./line.proto", "a//line.proto", "line", "", "\nline.proto", "~schema.proto", "a\x00.proto"])  # fmt: skip
def test_the_name_of_a_reference_is_neither_an_option_nor_a_path_elsewhere(tmp_path, name):
    with pytest.raises(RegistryError, match=r"is not a relative path of a \.proto file") as error:
        refers(name.format(tmp_path))
    assert error.value.code == 42201
    assert list(tmp_path.iterdir()) == []


def test_names_of_references_in_folders():
    assert list(refers("shop-v1/line_1.x.proto").imports) == ["shop-v1/line_1.x.proto"]
    assert list(refers("schema.proto", proto('import "schema.proto";', "message A { Line l = 1; }")).imports) == ["schema.proto"]  # fmt: skip


@pytest.mark.parametrize("imported", ["{}/secret.proto", "../{}/secret.proto", "line.proto/../secret.proto"])
def test_a_text_imports_only_references(tmp_path, imported):
    (tmp_path / "secret.proto").write_text(proto("message Secret { }"), encoding="utf-8")
    text = proto(f'import "{imported.format(tmp_path)}";', "message A { Secret s = 1; }")
    with pytest.raises(RegistryError, match="protoc cannot compile it: ") as error:
        refers("line.proto", text)
    assert error.value.code == 42201


def test_protoc_has_limits(monkeypatch):
    protobuf_schemas._descriptors.cache_clear()  # noqa: SLF001
    monkeypatch.setattr(protobuf_schemas, "_MOST_LETTERS", 50)
    with pytest.raises(RegistryError, match="more than 50 letters"):
        refers("line.proto")
    monkeypatch.undo()
    monkeypatch.setattr(protobuf_schemas, "_LIMIT_S", 0.001)
    with pytest.raises(RegistryError, match=r"protoc does not compile it within 0.001 s"):
        refers("line.proto")


def test_a_reference_that_cannot_be_a_file_is_an_error():
    two = (Reference("a.proto", "line", 1), Reference("a.proto/b.proto", "line", 1))
    with pytest.raises(RegistryError, match=r"the file 'a\.proto/b\.proto' cannot be written for protoc"):
        parse(SchemaText(LINE, "PROTOBUF", two), lambda _: SchemaText(LINE, "PROTOBUF"))
    with pytest.raises(RegistryError, match="cannot be written for protoc"):
        refers("a" * 300 + ".proto")


def test_a_serialized_descriptor_is_validated():
    file = FileDescriptorProto(syntax="proto3")
    file.message_type.add(name="A B")
    with pytest.raises(RegistryError, match="protoc cannot compile it"):
        parsed(base64.b64encode(file.SerializeToString()).decode(), "PROTOBUF")


def test_references_that_double_in_each_version_are_followed_once():
    def resolve(reference: Reference) -> SchemaText:
        before = reference.version - 1
        references = tuple(Reference(f"{n}{before}", "s", before) for n in "ab") if before else ()
        return SchemaText("true", "JSON", references)

    assert len(parse(resolve(Reference("", "s", 60)), resolve).references) == 118
    with pytest.raises(RegistryError, match="more than 100 times"):
        parse(resolve(Reference("", "s", 200)), resolve)


def test_problems_of_avro_are_said_in_words():
    field, enum = {"name": "v", "type": "double"}, {"type": "enum", "name": "E", "symbols": ["a", "b", "c"]}
    old = {"type": "record", "name": "P", "fields": [{"name": "e", "type": enum}]}
    new = {**old, "fields": [{"name": "e", "type": {**enum, "symbols": ["a"]}}, field]}

    assert parsed(new).problems(parsed(old)) == ["field 'v' is new and has no default", "symbols are missing: b, c"]
