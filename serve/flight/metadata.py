"""What drivers ask about a catalog: the tables that the caller may read, as one schema of one catalog."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from pipeline.kernel.types import arrow_schema
from serve.access.caller import Caller
from serve.flight.messages import FlightMessage
from serve.reading import Reading
from serve.visible_tables import visible_tables

SCHEMA = "main"
_TABLE = "TABLE"
_TEXT, _MAYBE, _NUMBER = pa.string(), pa.string(), pa.int32()


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


_CATALOGS = _schema(("catalog_name", _TEXT, False))
_SCHEMAS = _schema(("catalog_name", _TEXT, True), ("db_schema_name", _TEXT, False))
_TABLES = _schema(
    ("catalog_name", _TEXT, True), ("db_schema_name", _TEXT, True), ("table_name", _TEXT, False), ("table_type", _TEXT, False)
)  # fmt: skip
_TABLES_WITH_COLUMNS = _TABLES.append(pa.field("table_schema", pa.binary(), nullable=False))
_TABLE_TYPES = _schema(("table_type", _TEXT, False))
_PRIMARY_KEYS = _schema(
    ("catalog_name", _TEXT, True), ("db_schema_name", _TEXT, True), ("table_name", _TEXT, False), ("column_name", _TEXT, False),
    ("key_name", _TEXT, True), ("key_sequence", _NUMBER, False),
)  # fmt: skip
_FOREIGN_KEYS = _schema(
    ("pk_catalog_name", _TEXT, True), ("pk_db_schema_name", _TEXT, True), ("pk_table_name", _TEXT, False), ("pk_column_name", _TEXT, False),
    ("fk_catalog_name", _TEXT, True), ("fk_db_schema_name", _TEXT, True), ("fk_table_name", _TEXT, False), ("fk_column_name", _TEXT, False),
    ("key_sequence", _NUMBER, False), ("fk_key_name", _TEXT, True), ("pk_key_name", _TEXT, True), ("update_rule", pa.uint8(), False),
    ("delete_rule", pa.uint8(), False),
)  # fmt: skip
_SQL_INFO = pa.schema(
    [
        pa.field("info_name", pa.uint32(), nullable=False),
        pa.field(
            "value",
            pa.dense_union(
                [
                    pa.field("string_value", pa.string()),
                    pa.field("bool_value", pa.bool_()),
                    pa.field("bigint_value", pa.int64()),
                    pa.field("int32_bitmask", pa.int32()),
                    pa.field("string_list", pa.list_(pa.string())),
                    pa.field("int32_to_int32_list_map", pa.map_(pa.int32(), pa.list_(pa.int32()))),
                ]
            ),
            nullable=False,
        ),
    ]
)
_INFO: Mapping[int, str | bool] = {0: "Headwater", 1: "1", 2: "25.0.0", 3: True, 4: True, 5: False, 6: "", 504: '"'}
"""The name and version of the server and of Arrow, that it is read-only, that it takes SQL and no Substrait, and the quote of names."""


class FlightCatalog:
    """Answers the questions of drivers for a caller."""

    def __init__(self, reading: Reading, name: str) -> None:
        """Use the tables of a project; `name` is that of the catalog."""
        self._reading = reading
        self._name = name
        self._answers: Mapping[str, Callable[[FlightMessage, Caller], pa.Table]] = {
            "CommandGetCatalogs": lambda _, __: self._rows(_CATALOGS, [(name,)]),
            "CommandGetDbSchemas": self._schemas,
            "CommandGetTables": self._tables,
            "CommandGetTableTypes": lambda _, __: self._rows(_TABLE_TYPES, [(_TABLE,)]),
            "CommandGetPrimaryKeys": self._primary_keys,
            "CommandGetImportedKeys": self._imported_keys,
            "CommandGetExportedKeys": self._exported_keys,
            "CommandGetCrossReference": lambda _, __: self._rows(_FOREIGN_KEYS, []),
            "CommandGetSqlInfo": self._info,
        }

    def answers(self, name: str) -> bool:
        """Return whether this is a question about the catalog."""
        return name in self._answers

    def answer(self, message: FlightMessage, caller: Caller) -> pa.Table:
        """Return the answer to a question."""
        return self._answers[message.name](message, caller)

    def _schemas(self, message: FlightMessage, _: Caller) -> pa.Table:
        fits = message.maybe_text(1) in {None, "", self._name} and _is_like(SCHEMA, message.maybe_text(2))
        return self._rows(_SCHEMAS, [(self._name, SCHEMA)] if fits else [])

    def _tables(self, message: FlightMessage, caller: Caller) -> pa.Table:
        fits = message.maybe_text(1) in {None, "", self._name} and _is_like(SCHEMA, message.maybe_text(2))
        kinds = message.texts(4)
        rows: list[tuple[object, ...]] = []
        for each in visible_tables(self._reading, caller) if fits and (not kinds or _TABLE in kinds) else ():
            if _is_like(each.name, message.maybe_text(3)):
                row = (self._name, SCHEMA, each.name, _TABLE)
                described = arrow_schema(each.schema).serialize().to_pybytes() if message.flag(5) else b""
                rows.append((*row, described) if message.flag(5) else row)
        return self._rows(_TABLES_WITH_COLUMNS if message.flag(5) else _TABLES, rows)

    def _primary_keys(self, message: FlightMessage, caller: Caller) -> pa.Table:
        rows = [
            (self._name, SCHEMA, each.name, column, None, number)
            for each in visible_tables(self._reading, caller)
            if each.name == message.text(3)
            for number, column in enumerate(each.key, 1)
        ]
        return self._rows(_PRIMARY_KEYS, rows)

    def _imported_keys(self, message: FlightMessage, caller: Caller) -> pa.Table:
        return self._foreign_keys(message.text(3), caller, is_single=True)

    def _exported_keys(self, message: FlightMessage, caller: Caller) -> pa.Table:
        return self._foreign_keys(message.text(3), caller, is_single=False)

    def _foreign_keys(self, name: str, caller: Caller, *, is_single: bool) -> pa.Table:
        found = (each.relationships for each in visible_tables(self._reading, caller) if each.name == name)
        rows: list[tuple[object, ...]] = []
        for each in next(found, ()):
            for number, (mine, theirs) in enumerate(each.pairs, 1) if each.is_single == is_single else ():
                one, other = (self._name, SCHEMA, each.table, theirs), (self._name, SCHEMA, name, mine)
                ends = (*one, *other) if is_single else (*other, *one)
                rows.append((*ends, number, each.column, None, 3, 3))
        return self._rows(_FOREIGN_KEYS, rows)

    def _info(self, message: FlightMessage, _: Caller) -> pa.Table:
        asked = _numbers(message)
        infos = {number: value for number, value in _INFO.items() if not asked or number in asked}
        texts = [value for value in infos.values() if isinstance(value, str)]
        flags = [value for value in infos.values() if isinstance(value, bool)]
        kinds, offsets, counts = [], [], {True: 0, False: 0}
        for value in infos.values():
            is_flag = isinstance(value, bool)
            kinds.append(int(is_flag))
            offsets.append(counts[is_flag])
            counts[is_flag] += 1
        union = _SQL_INFO.field("value").type
        children = [pa.array(texts, pa.string()), pa.array(flags, pa.bool_())]
        children += [pa.array([], union.field(number).type) for number in range(2, union.num_fields)]
        values = pa.UnionArray.from_dense(
            pa.array(kinds, pa.int8()), pa.array(offsets, pa.int32()), children, [field.name for field in union]
        )
        return pa.Table.from_arrays([pa.array(list(infos), pa.uint32()), values.cast(union)], schema=_SQL_INFO)

    @staticmethod
    def _rows(schema: pa.Schema, rows: Sequence[tuple[object, ...]]) -> pa.Table:
        columns = [pa.array([row[number] for row in rows], field.type) for number, field in enumerate(schema)]
        return pa.Table.from_arrays(columns, schema=schema)


def _numbers(message: FlightMessage) -> set[int]:
    """Return the numbers of a repeated field, which are packed into bytes or not."""
    found: set[int] = set()
    for value in message.fields.get(1, ()):
        if isinstance(value, int):
            found.add(value)
            continue
        number = shift = 0
        for byte in value:
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
                found.add(number)
                number = shift = 0
    return found


def _is_like(text: str, pattern: str | None) -> bool:
    if pattern is None:
        return True
    parts = ({"%": ".*", "_": "."}.get(character, re.escape(character)) for character in pattern)
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None
