"""Confluent's unmodified client and serializers work with the registry."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import closing

import httpx
import pyarrow as pa
import pytest
import uvicorn
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient, ServerConfig
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pipeline.connectors.kafka import Avro
from pipeline.connectors.kafka.avro import AvroCodec
from pipeline.governance import Catalog
from pipeline.schema_registry.errors import RegistryError
from pipeline.schema_registry.registry import SchemaRegistry
from pipeline.schema_registry.schemas import SchemaText
from serve.schema_registry import registry_app

VALUE = SerializationContext("orders", MessageField.VALUE)
ORDER = json.dumps({"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}]})
MORE = json.dumps(
    {
        "type": "record",
        "name": "Order",
        "fields": [{"name": "id", "type": "long"}, {"name": "note", "type": ["null", "string"], "default": None}],
    }
)
BROKEN = json.dumps({"type": "record", "name": "Order", "fields": [{"name": "id", "type": "string"}]})


@pytest.fixture
def url(tmp_path):
    """The address of a registry."""
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(registry_app(SchemaRegistry(catalog)), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listening.close()
    catalog.close()


@pytest.fixture
def client(url):
    with SchemaRegistryClient({"url": url}) as client:
        yield client


def test_avro_is_serialized_and_read_back(client, url):
    write, read = AvroSerializer(client, ORDER), AvroDeserializer(client)
    value = write({"id": 7}, VALUE)
    assert read(value, VALUE) == {"id": 7}
    codec = AvroCodec(Avro(url))
    with codec._registry:  # noqa: SLF001 - closes its connections
        assert codec.decode(value) == {"id": 7}
    assert AvroSerializer(client, MORE)({"id": 8, "note": "n"}, VALUE)[1:5] == (2).to_bytes(4, "big")
    assert client.get_subjects() == ["orders-value"]
    assert client.get_versions("orders-value") == [1, 2]
    known = AvroSerializer(client, ORDER, conf={"auto.register.schemas": False})
    assert known({"id": 9}, VALUE)[:5] == value[:5]
    latest = AvroSerializer(client, conf={"auto.register.schemas": False, "use.latest.version": True})
    assert latest({"id": 9, "note": None}, VALUE)[1:5] == (2).to_bytes(4, "big")


def test_json_is_serialized_and_read_back(client):
    schema = json.dumps({"type": "object", "title": "Order", "properties": {"id": {"type": "integer"}}})
    value = JSONSerializer(schema, client)({"id": 7}, VALUE)
    assert JSONDeserializer(schema, schema_registry_client=client)(value, VALUE) == {"id": 7}
    assert client.get_latest_version("orders-value").schema.schema_type == "JSON"


def test_protobuf_is_serialized_and_read_back(client):
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    for name in ("First", "Order"):
        message = file.message_type.add(name=name)
        message.field.add(name="id", number=1, type=3, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    order = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))
    options = {"use.deprecated.format": False}
    value = ProtobufSerializer(order, client, options)(order(id=7), VALUE)
    assert ProtobufDeserializer(order, options, client)(value, VALUE) == order(id=7)
    assert client.get_schema(1).schema_str.startswith('syntax = "proto3";\npackage shop;\nmessage First {')
    again = client.register_schema("other-value", Schema(client.get_schema(1).schema_str, "PROTOBUF"))
    assert again == 1


def test_protobuf_files_in_folders_are_imported(client):
    money = descriptor_pb2.FileDescriptorProto(name="shop/common/money.proto", package="shop.common", syntax="proto3")
    money.message_type.add(name="Money").field.add(name="cents", number=1, type=3, label=1)
    file = descriptor_pb2.FileDescriptorProto(name="shop/order.proto", package="shop", syntax="proto3")
    file.dependency.append(money.name)
    total = file.message_type.add(name="Order").field.add(name="total", number=1, type=11, label=1)
    total.type_name = ".shop.common.Money"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(money)
    pool.Add(file)
    order = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))
    options = {"use.deprecated.format": False}
    sent = order(total={"cents": 7})
    value = ProtobufSerializer(order, client, options)(sent, VALUE)
    assert ProtobufDeserializer(order, options, client)(value, VALUE) == sent
    assert client.get_subjects() == ["orders-value", money.name]
    assert client.get_versions(money.name) == [1]
    assert client.get_latest_version("orders-value").schema.references == [SchemaReference(money.name, money.name, 1)]
    client.set_compatibility(money.name, "FULL")
    assert client.get_compatibility(money.name) == "FULL"
    for strange in ("50%2F", "ü/ß", "a b?c#d"):
        client.register_schema(strange, Schema(ORDER))
        assert client.get_latest_version(strange).subject == strange


def test_incompatible_schemas_are_refused(client):
    client.register_schema("orders-value", Schema(ORDER))
    with pytest.raises(SchemaRegistryError, match="incompatible with an earlier schema") as error:
        client.register_schema("orders-value", Schema(BROKEN))
    assert (error.value.http_status_code, error.value.error_code) == (409, 40901)
    assert not client.test_compatibility("orders-value", Schema(BROKEN))
    assert client.test_compatibility("orders-value", Schema(MORE))
    client.set_compatibility("orders-value", "NONE")
    assert client.get_compatibility("orders-value") == "NONE"
    assert client.register_schema("orders-value", Schema(BROKEN)) == 2
    assert client.get_config("orders-value") == ServerConfig(compatibility_level="NONE")
    client.delete_config("orders-value")
    with pytest.raises(SchemaRegistryError, match="does not have subject-level compatibility"):
        client.get_compatibility("orders-value")


def test_references_are_followed_and_keep_their_schema(client):
    line = {"type": "record", "name": "shop.Line", "fields": [{"name": "sku", "type": "string"}]}
    client.register_schema("line", Schema(json.dumps(line)))
    order = {"type": "record", "name": "shop.Order", "fields": [{"name": "lines", "type": {"type": "array", "items": "shop.Line"}}]}  # fmt: skip
    reference = SchemaReference("shop.Line", "line", 1)
    number = client.register_schema("orders-value", Schema(json.dumps(order), "AVRO", [reference]))
    assert client.get_referenced_by("line", 1) == [number]
    assert client.get_schema(number).references == [reference]
    with pytest.raises(SchemaRegistryError, match="references exist") as error:
        client.delete_version("line", 1)
    assert error.value.error_code == 42206
    with pytest.raises(SchemaRegistryError, match="does not exist"):
        client.register_schema("b", Schema(json.dumps(order), "AVRO", [SchemaReference("shop.Line", "line", 9)]))
    write = AvroSerializer(client, Schema(json.dumps(order), "AVRO", [reference]))
    assert AvroDeserializer(client)(write({"lines": [{"sku": "a"}]}, VALUE), VALUE) == {"lines": [{"sku": "a"}]}


def test_records_of_foreign_schemas_are_undecodable_and_references_are_fetched(client, url):
    line = json.dumps({"type": "record", "name": "Line", "fields": [{"name": "sku", "type": "string"}]})
    fields = [{"name": "id", "type": "long"}, {"name": "line", "type": "Line"}]
    order = json.dumps({"type": "record", "name": "Order", "fields": fields})
    client.register_schema("line", Schema(line))
    with_line = Schema(order, references=[SchemaReference("Line", "line", 1)])
    written = AvroSerializer(client, with_line)({"id": 7, "line": {"sku": "s"}}, VALUE)
    foreign = [
        client.register_schema("j", Schema('{"type":"object"}', "JSON")),
        client.register_schema("p", Schema('syntax = "proto3"; message A { }', "PROTOBUF")),
        999,
    ]
    values = [written, *(b"\0" + number.to_bytes(4, "big") + b"x" for number in foreign)]
    codec = AvroCodec(Avro(url))
    with codec._registry:  # noqa: SLF001 - closes its connections
        found = {at.to_pylist()[0]: decoded for at, decoded in codec.decoded(pa.array(values))}
        assert json.loads(codec.text_of(written))["name"] == "Order"
        assert codec.text_of(values[1]) == "{}"
    assert found[0].cells("line") == [{"sku": "s"}]
    assert [found[n].why[0] for n in (1, 2, 3)] == [
        f"the schema {foreign[0]} is one of JSON, not of Avro",
        f"the schema {foreign[1]} is one of PROTOBUF, not of Avro",
        "the registry has no schema 999",
    ]


@pytest.mark.parametrize(
    "text", ["{", "[]", '"Line"', '{"type": "record"}', '{"type": "record", "name": "R", "fields": 7}', "[" * 10_000]
)
def test_a_record_whose_schema_is_not_read_is_undecodable(tmp_path, text):
    (tmp_path / "7.avsc").write_text(text)
    codec = AvroCodec(Avro(tmp_path.as_uri()))
    ((_, decoded),) = codec.decoded(pa.array([b"\0\0\0\0\7x"] * 2))
    assert ["not valid Avro" in why or "not an Avro record" in why for why in decoded.why] == [True, True]


def test_deleting_keeps_ids_and_numbers(client, url):
    first = client.register_schema("orders-value", Schema(ORDER))
    assert client.delete_subject("orders-value") == [1]
    assert client.get_subjects() == []
    assert client.get_subjects(deleted=True) == ["orders-value"]
    with pytest.raises(SchemaRegistryError) as error:
        client.get_versions("orders-value")
    assert error.value.error_code == 40401
    assert client.get_schema(first).schema_str == json.dumps(json.loads(ORDER), separators=(",", ":"))
    client.clear_caches()
    assert client.register_schema("orders-value", Schema(ORDER)) == first
    assert client.get_versions("orders-value") == [2]
    with pytest.raises(SchemaRegistryError, match="was not deleted first") as error:
        client.delete_version("orders-value", 2, permanent=True)
    assert error.value.error_code == 40407
    assert client.delete_version("orders-value", 2) == 2
    with pytest.raises(SchemaRegistryError, match="was soft deleted") as error:
        client.delete_version("orders-value", 2)
    assert error.value.error_code == 40406
    with pytest.raises(SchemaRegistryError, match="was soft deleted") as error:
        client.delete_subject("orders-value")
    assert error.value.error_code == 40404
    assert client.delete_version("orders-value", 2, permanent=True) == 2
    client.clear_caches()
    assert client.register_schema("orders-value", Schema(ORDER)) == first
    assert client.get_versions("orders-value") == [3]
    assert httpx.delete(f"{url}/subjects/orders-value?permanent=true").json()["error_code"] == 40405
    assert client.delete_subject("orders-value") == [3]
    assert client.delete_subject("orders-value", permanent=True) == [1, 3]
    assert client.get_subjects(deleted=True) == []


def test_lookups_name_what_is_missing(client, url):
    number = client.register_schema("orders-value", Schema(ORDER))
    found = client.lookup_schema("orders-value", Schema(ORDER))
    assert (found.schema_id, found.version, found.subject) == (number, 1, "orders-value")
    for call, code in (
        (lambda: client.lookup_schema("none", Schema(ORDER)), 40401),
        (lambda: client.lookup_schema("orders-value", Schema(MORE)), 40403),
        (lambda: client.get_version("orders-value", 9), 40402),
        (lambda: client.get_schema(99), 40403),
        (lambda: client.register_schema("orders-value", Schema("{")), 42201),
        (lambda: client.set_compatibility("orders-value", "SOME"), 42203),
    ):
        with pytest.raises(SchemaRegistryError) as error:
            call()
        assert error.value.error_code == code
    assert (
        client.get_schema_by_guid(client.get_latest_version("orders-value").guid).schema_str == found.schema.schema_str
    )
    assert httpx.get(f"{url}/subjects/orders-value/versions/x").json()["error_code"] == 42202
    assert httpx.get(f"{url}/associations/resources/-/orders").status_code == 404
    assert httpx.get(f"{url}/contexts").json() == ["."]
    assert httpx.get(f"{url}/schemas/types").json() == ["JSON", "PROTOBUF", "AVRO"]
    for path in (f"schemas/ids/{number}", "subjects/orders-value/versions/1"):
        assert httpx.get(f"{url}/{path}/schema").text == httpx.get(f"{url}/{path}").json()["schema"]
    assert httpx.post(f"{url}/subjects/a/versions", content=b"[1]").status_code == 422
    assert httpx.post(f"{url}/subjects/a/versions", content=b"no").status_code == 422
    assert httpx.post(f"{url}/subjects/:.c:a/versions", json={"schema": ORDER}).json()["error_code"] == 42208


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"id": [1]}, 42201),
        ({"id": {}}, 42201),
        ({"id": "x"}, 42201),
        ({"id": True}, 42201),
        ({"version": [1]}, 42201),
        ({"version": 1.5}, 42201),
        ({"version": 1 << 70}, 42201),
        ({"references": 5}, 42201),
        ({"references": [{"name": "n", "subject": "s", "version": 1 << 70}]}, 42201),
        ({"schema": [1]}, 42201),
        ({"schemaType": [1]}, 42201),
    ],
)
def test_a_body_with_other_types_is_refused(url, changed, code):
    answer = httpx.post(f"{url}/subjects/a/versions", json={"schema": ORDER, **changed})
    assert (answer.status_code, answer.json()["error_code"]) == (code // 100, code)


def test_a_body_is_read_up_to_the_limit(tmp_path):
    received, sent = [], []

    async def receive():
        received.append(1 << 20)
        return {"type": "http.request", "body": b" " * (1 << 20), "more_body": len(received) < 50}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/subjects/a/versions", "headers": [], "query_string": b""}
    with closing(Catalog(f"sqlite:///{tmp_path}/catalog.db")) as catalog:
        asyncio.run(registry_app(SchemaRegistry(catalog))(scope, receive, send))
    assert (sent[0]["status"], json.loads(sent[1]["body"])["error_code"], len(received)) == (413, 41301, 5)


def test_requests_with_extreme_values_are_refused(url):
    assert httpx.post(f"{url}/subjects/a/versions", content=b"[" * 200_000).json()["error_code"] == 42201
    assert httpx.get(f"{url}/schemas/ids/{1 << 70}").json()["error_code"] == 40403
    assert httpx.get(f"{url}/subjects/a/versions/{'9' * 5000}").json()["error_code"] == 42202
    assert httpx.get(f"{url}/subjects?offset=-1").json() == []


def test_modes_protect_subjects(client, url):
    client.register_schema("orders-value", Schema(ORDER))
    assert httpx.put(f"{url}/mode/orders-value", json={"mode": "READONLY"}).json() == {"mode": "READONLY"}
    with pytest.raises(SchemaRegistryError) as error:
        client.register_schema("orders-value", Schema(MORE))
    assert error.value.error_code == 42205
    assert httpx.get(f"{url}/mode").json() == {"mode": "READWRITE"}
    assert httpx.get(f"{url}/mode/other").json()["error_code"] == 40409
    assert httpx.get(f"{url}/mode/other?defaultToGlobal=true").json() == {"mode": "READWRITE"}
    assert httpx.delete(f"{url}/mode/orders-value").json() == {"mode": "READONLY"}
    assert httpx.put(f"{url}/mode/orders-value", json={"mode": "IMPORT"}).json()["error_code"] == 42205
    assert httpx.put(f"{url}/mode/new", json={"mode": "IMPORT"}).status_code == 200
    imported = httpx.post(f"{url}/subjects/new/versions", json={"schema": MORE, "id": 77, "version": 5}).json()
    assert (imported["id"], imported["version"]) == (77, 5)


def test_an_import_keeps_ids_and_versions(url):
    def post(subject: str, schema: str, **numbers: object) -> dict:
        return httpx.post(f"{url}/subjects/{subject}/versions", json={"schema": schema, **numbers}).json()

    assert post("live", BROKEN)["id"] == 1
    httpx.put(f"{url}/mode/new", json={"mode": "IMPORT"})
    assert post("new", ORDER, id=30, version=3)["version"] == 3
    assert post("new", MORE, id=20, version=2)["version"] == 2
    assert httpx.get(f"{url}/subjects/new/versions").json() == [2, 3]
    assert post("new", ORDER, id=30, version=3)["id"] == 30
    for schema, numbers, why in (
        (BROKEN, {"id": 7, "version": 1}, "is registered with the id 1 and cannot have the id 7"),
        ('"int"', {"id": 1, "version": 1}, "The id 1 is that of another schema"),
        ('"int"', {"id": 9, "version": 2}, "Version 2 of subject new exists already"),
        (ORDER, {"id": 31, "version": 3}, "has this schema already, with the id 30 as version 3"),
        (ORDER, {"id": 30, "version": 4}, "has this schema already, with the id 30 as version 3"),
        ('"int"', {"id": 9, "version": -5}, "is not a number above 0"),
        ('"int"', {"id": 0}, "is not a number above 0"),
        ('"int"', {"id": [9]}, "Invalid request"),
    ):
        assert why in post("new", schema, **numbers)["message"]
    assert post("new", '"int"', id=9)["version"] == 4
    assert httpx.delete(f"{url}/subjects/new/versions/2").json() == 2
    assert httpx.delete(f"{url}/subjects/new/versions/2?permanent=true").json() == 2
    assert "was deleted permanently" in post("new", '"long"', id=50, version=2)["message"]
    assert httpx.delete(f"{url}/subjects/new/versions/2?permanent=true").json()["error_code"] == 40402
    assert "The next version of subject live is 2, not 7" in post("live", '"int"', version=7)["message"]


def test_a_version_is_deleted_by_one_of_two(tmp_path):
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    registry, codes = SchemaRegistry(catalog), []
    registry.register("a", SchemaText(ORDER))
    registry.delete_version("a", 1)

    def delete() -> None:
        try:
            codes.append(registry.delete_version("a", 1, is_permanent=True))
        except RegistryError as error:
            codes.append(error.code)

    threads = [threading.Thread(target=delete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [1, 40401, 40401, 40401]
    catalog.close()


def test_metadata_finds_a_version(url):
    for number, text in enumerate((ORDER, MORE)):
        body = {"schema": text, "metadata": {"properties": {"major": str(number)}}, "ruleSet": {"domainRules": []}}
        assert httpx.post(f"{url}/subjects/orders-value/versions", json=body).json()["version"] == number + 1
    found = httpx.get(f"{url}/subjects/orders-value/metadata?key=major&value=0").json()
    assert (found["version"], found["metadata"], found["ruleSet"]) == (
        1,
        {"properties": {"major": "0"}},
        {"domainRules": []},
    )
    assert httpx.get(f"{url}/subjects/orders-value/metadata?key=major&value=7").json()["error_code"] == 40403


def test_two_writers_get_different_numbers(tmp_path):
    registries = [SchemaRegistry(Catalog(f"sqlite:///{tmp_path}/catalog.db")) for _ in range(2)]
    texts = [json.dumps({"type": "record", "name": f"R{n}", "fields": []}) for n in range(8)]

    def write(registry, mine):
        for text in mine:
            registry.register(json.loads(text)["name"], SchemaText(text))

    threads = [threading.Thread(target=write, args=(r, texts[n::2])) for n, r in enumerate(registries)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = registries[0]
    assert sorted(found.version(subject, "latest").id for subject in found.subjects()) == list(range(1, 9))
