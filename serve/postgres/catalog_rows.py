"""The rows of PostgreSQL's catalog for the tables that a caller may read. They have numbers that are the same in every server."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from pipeline.core.schema import Column
from serve.postgres.catalog_tables import SETTINGS, TABLES
from serve.postgres.values import ARRAY_OIDS, TYPES, modifier_of, type_of
from serve.visible_tables import VisibleTable

_PUBLIC, _CATALOG, _INFORMATION, _OWNER, _CALLER, _DATABASE, _CLASSES = 2200, 11, 13_000, 10, 15_999, 16_000, 1259
_SYSTEM_TABLES: Mapping[str, int] = {
    "pg_class": _CLASSES,
    "pg_type": 1247,
    "pg_attribute": 1249,
    "pg_database": 1262,
    "pg_constraint": 2606,
    "pg_namespace": 2615,
}
_HEAP, _BTREE = 2, 403
_FIRST_OID = 16_384
_LARGEST_BY_VALUE = 8
_UTF8 = 6
_SHOWN_TYPES: Mapping[str, str] = {
    "bool": "boolean", "int2": "smallint", "int4": "integer", "int8": "bigint", "float4": "real", "float8": "double precision", "time": "time without time zone",
    "timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone", "varchar": "character varying",
}  # fmt: skip
_CATEGORIES: Mapping[str, str] = {
    "bool": "B", "text": "S", "varchar": "S", "name": "S", "char": "Z", "date": "D", "time": "D", "timestamp": "D", "timestamptz": "D", "interval": "T",
    "json": "U", "uuid": "U", "bytea": "U", "unknown": "X",
}  # fmt: skip
"""Those of types that are no numbers."""
_WITH_UNDERSCORE = frozenset({"json", "date", "time", "timestamp", "timestamptz", "interval", "numeric", "uuid"})
"""Types whose functions have names with an underscore, by which drivers know the types."""
Rows = dict[str, list[dict[str, object]]]


class CatalogRows:
    """Collects the rows of the catalog's tables."""

    def __init__(self, database: str, user: str) -> None:
        """Begin with what does not depend on tables; `user` is the name of the caller."""
        self.rows: Rows = {name: [] for name in TABLES}
        self._database = database
        self._user = user
        self._add_schemas()
        self._add_types()
        self._add_roles()
        self._add_settings()

    def add(self, tables: Sequence[VisibleTable]) -> Rows:
        """Add tables with their keys, and return all rows."""
        by_name = {each.name: each for each in tables}
        for table in tables:
            self._add_table(table)
            if table.key:
                self._add_key(table)
        for table in tables:
            for each in table.relationships:
                ((mine, theirs),) = each.pairs
                if each.is_single and by_name[each.table].key == (theirs,):
                    self._add_reference(table, mine, by_name[each.table])
        return self.rows

    def _add_schemas(self) -> None:
        for oid, name in ((_PUBLIC, "public"), (_CATALOG, "pg_catalog"), (_INFORMATION, "information_schema")):
            self._add("pg_namespace", oid=oid, nspname=name, nspowner=_OWNER)
            self._add(
                "information_schema_schemata",
                catalog_name=self._database,
                schema_name=name,
                schema_owner=self._database,
            )
        self._add(
            "pg_database", oid=_DATABASE, datname=self._database, datdba=_OWNER, encoding=_UTF8, datistemplate=False, datallowconn=True, datconnlimit=-1,
            datcollate="C", datctype="C", datlocprovider="c",
        )  # fmt: skip
        self._add("information_schema_information_schema_catalog_name", catalog_name=self._database)

        for name, oid in _SYSTEM_TABLES.items():
            self._add_relation(oid, name, "r", 0, relnamespace=_CATALOG)

    def _add_types(self) -> None:
        for kind in TYPES:
            self._add_type(kind.oid, kind.name, kind.length)
            if kind.oid in ARRAY_OIDS:
                self._add_type(ARRAY_OIDS[kind.oid], f"_{kind.name}", -1, kind.oid)
        for oid, name, length in ((18, "char", 1), (19, "name", 64), (26, "oid", 4), (705, "unknown", -2)):
            self._add_type(oid, name, length)

    def _add_type(self, oid: int, name: str, length: int, element: int = 0) -> None:
        functions = "array_" if element else f"{name}_" if name in _WITH_UNDERSCORE else name
        self._add(
            "pg_type", oid=oid, typname=name, typnamespace=_CATALOG, typowner=_OWNER, typlen=length, typbyval=0 < length <= _LARGEST_BY_VALUE, typtype="b",
            typcategory="A" if element else _CATEGORIES.get(name, "N"), typispreferred=False, typisdefined=True, typdelim=",", typrelid=0, typelem=element,
            typarray=ARRAY_OIDS.get(oid, 0), typnotnull=False, typbasetype=0, typtypmod=-1, typndims=0, typcollation=0,
            typinput=f"{functions}in", typoutput=f"{functions}out", typreceive=f"{functions}recv", typsend=f"{functions}send",
        )  # fmt: skip

    def _add_roles(self) -> None:
        rights = dict.fromkeys(("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls"), False)
        for oid, name in ((_OWNER, self._database), (_CALLER, self._user)):
            self._add(
                "pg_roles",
                oid=oid,
                rolname=name,
                rolinherit=True,
                rolcanlogin=oid == _CALLER,
                rolconnlimit=-1,
                **rights,
            )
        rights = dict.fromkeys(("usecreatedb", "usesuper", "userepl", "usebypassrls"), False)
        self._add("pg_user", usename=self._user, usesysid=_CALLER, **rights)

    def _add_settings(self) -> None:
        for name, value in SETTINGS.items():
            self._add(
                "pg_settings",
                name=name,
                setting=value,
                vartype="string",
                context="user",
                source="default",
                boot_val=value,
                reset_val=value,
            )
        self._add("pg_am", oid=_HEAP, amname="heap", amtype="t")
        self._add("pg_am", oid=_BTREE, amname="btree", amtype="i")
        self._add(
            "pg_collation", oid=100, collname="default", collnamespace=_CATALOG, collprovider="d", collencoding=-1
        )
        self._add("pg_timezone_names", name="UTC", abbrev="UTC", is_dst=False)
        self._add(
            "information_schema_character_sets", character_set_name="UTF8", character_repertoire="UCS", form_of_use="UTF8",
            default_collate_catalog=self._database, default_collate_schema="pg_catalog", default_collate_name="C",
        )  # fmt: skip

    def _add_table(self, table: VisibleTable) -> None:
        oid, where = _oid_of(table.name), self._where(table)
        self._add_relation(oid, table.name, "r", len(table.schema.columns), relhasindex=bool(table.key))
        self._add("information_schema_tables", **where, table_type="BASE TABLE", is_insertable_into="NO", is_typed="NO")
        for name in ("table_privileges", "role_table_grants"):
            grant = {"grantor": self._database, "grantee": self._user, "privilege_type": "SELECT", "is_grantable": "NO"}
            self._add(f"information_schema_{name}", **where, **grant)
        self._add(
            "pg_tables",
            schemaname="public",
            tablename=table.name,
            tableowner=self._database,
            hasindexes=bool(table.key),
        )
        self._add("pg_stat_user_tables", relid=oid, schemaname="public", relname=table.name, n_live_tup=0)
        if table.description:
            self._add("pg_description", objoid=oid, classoid=_CLASSES, objsubid=0, description=table.description)
        for number, column in enumerate(table.schema.columns, 1):
            self._add_attribute(oid, number, column, is_key=column.name in table.key)
            self._add_column(table, number, column)

    def _add_column(self, table: VisibleTable, number: int, column: Column) -> None:
        kind, modifier = type_of(column), modifier_of(column) - 4
        is_decimal = modifier > 0
        self._add(
            "information_schema_columns", **self._where(table), column_name=column.name, ordinal_position=number,
            is_nullable="NO" if column.name in table.key else "YES", data_type=_SHOWN_TYPES.get(kind.name, kind.name), udt_catalog=self._database,
            udt_schema="pg_catalog", udt_name=kind.name, is_identity="NO", is_generated="NEVER", is_updatable="NO",
            numeric_precision=modifier >> 16 if is_decimal else None, numeric_scale=modifier & 0xFFFF if is_decimal else None,
            numeric_precision_radix=10 if kind.name == "numeric" else None, datetime_precision=6 if kind.name.startswith("time") else None,
        )  # fmt: skip

    def _add_key(self, table: VisibleTable) -> None:
        name, oid = f"{table.name}_pkey", _oid_of(table.name)
        index, numbers = _oid_of(name), [table.schema.names.index(each) + 1 for each in table.key]
        self._add_relation(index, name, "i", len(numbers))
        for number, at in enumerate(numbers, 1):
            self._add_attribute(index, number, table.schema.columns[at - 1])
        zeros = [0] * len(numbers)
        yes = dict.fromkeys(
            ("indisunique", "indisprimary", "indisvalid", "indisready", "indislive", "indimmediate"), True
        )
        no = dict.fromkeys(
            ("indisexclusion", "indisclustered", "indisreplident", "indcheckxmin", "indnullsnotdistinct"), False
        )
        self._add(
            "pg_index", indexrelid=index, indrelid=oid, indnatts=len(numbers), indnkeyatts=len(numbers), indkey=numbers, indoption=zeros, indclass=zeros,
            indcollation=zeros, **yes, **no,
        )  # fmt: skip
        made = f"CREATE UNIQUE INDEX {name} ON public.{table.name} USING btree ({', '.join(table.key)})"
        self._add("pg_indexes", schemaname="public", tablename=table.name, indexname=name, indexdef=made)
        self._add_constraint(
            table, name, "PRIMARY KEY", table.key, conindid=index, conbin=f"PRIMARY KEY ({', '.join(table.key)})"
        )
        for column in table.key:
            self._add(
                "information_schema_constraint_column_usage",
                **self._where(table),
                **self._named(name),
                column_name=column,
            )

    def _add_reference(self, table: VisibleTable, column: str, other: VisibleTable) -> None:
        name, theirs = f"{table.name}_{column}_fkey", other.key[0]
        self._add_constraint(
            table, name, "FOREIGN KEY", (column,), confrelid=_oid_of(other.name), confkey=[other.schema.names.index(theirs) + 1],
            conindid=_oid_of(f"{other.name}_pkey"), confupdtype="a", confdeltype="a", confmatchtype="s",
            conbin=f"FOREIGN KEY ({column}) REFERENCES {other.name}({theirs})",
        )  # fmt: skip
        self._add(
            "information_schema_referential_constraints", **self._named(name), unique_constraint_catalog=self._database, unique_constraint_schema="public",
            unique_constraint_name=f"{other.name}_pkey", match_option="NONE", update_rule="NO ACTION", delete_rule="NO ACTION",
        )  # fmt: skip

    def _add_constraint(
        self, table: VisibleTable, name: str, kind: str, columns: Sequence[str], **more: object
    ) -> None:
        flags = {
            "condeferrable": False,
            "condeferred": False,
            "convalidated": True,
            "conislocal": True,
            "connoinherit": True,
        }
        zeros = dict.fromkeys(("contypid", "conparentid", "confrelid", "coninhcount"), 0)
        constraint = {
            "oid": _oid_of(name), "conname": name, "connamespace": _PUBLIC, "contype": kind[0].lower(), "conrelid": _oid_of(table.name),
            "conkey": [table.schema.names.index(each) + 1 for each in columns],
        }  # fmt: skip
        self._add("pg_constraint", **(constraint | flags | zeros | more))
        where = {**self._named(name), **self._where(table)}
        self._add(
            "information_schema_table_constraints",
            **where,
            constraint_type=kind,
            is_deferrable="NO",
            initially_deferred="NO",
            enforced="YES",
        )
        for number, column in enumerate(columns, 1):
            position = number if kind == "FOREIGN KEY" else None
            self._add(
                "information_schema_key_column_usage",
                **where,
                column_name=column,
                ordinal_position=number,
                position_in_unique_constraint=position,
            )

    def _add_relation(self, oid: int, name: str, kind: str, columns: int, **more: object) -> None:
        no = (
            "relhasindex",
            "relisshared",
            "relhasrules",
            "relhastriggers",
            "relhassubclass",
            "relrowsecurity",
            "relforcerowsecurity",
            "relispartition",
        )
        zeros = (
            "reltype",
            "reloftype",
            "reltablespace",
            "reltoastrelid",
            "relchecks",
            "relrewrite",
            "relpages",
            "relallvisible",
            "relfilenode",
        )
        row = {
            "oid": oid, "relname": name, "relnamespace": _PUBLIC, "relowner": _OWNER, "relam": _HEAP if kind == "r" else _BTREE, "relpersistence": "p",
            "relkind": kind, "relnatts": columns, "relispopulated": True, "reltuples": -1, "relreplident": "d", "tableoid": _CLASSES,
            "relacl": [f"{self._user}=r/{self._database}"] if kind == "r" else None,
        }  # fmt: skip
        self._add("pg_class", **(dict.fromkeys(no, False) | dict.fromkeys(zeros, 0) | row | more))

    def _add_attribute(self, oid: int, number: int, column: Column, *, is_key: bool = False) -> None:
        kind = type_of(column)
        self._add(
            "pg_attribute", attrelid=oid, attname=column.name, atttypid=kind.oid, attlen=kind.length, attnum=number, atttypmod=modifier_of(column), attndims=0,
            attnotnull=is_key, atthasdef=False, attidentity="", attgenerated="", attisdropped=False, attislocal=True, attinhcount=0, attcollation=0,
            attstorage="p", attcompression="", attalign="i", attbyval=0 < kind.length <= _LARGEST_BY_VALUE, atthasmissing=False, attstattarget=-1,
        )  # fmt: skip

    def _where(self, table: VisibleTable) -> dict[str, object]:
        return {"table_catalog": self._database, "table_schema": "public", "table_name": table.name}

    def _named(self, constraint: str) -> dict[str, object]:
        return {"constraint_catalog": self._database, "constraint_schema": "public", "constraint_name": constraint}

    def _add(self, table: str, **row: object) -> None:
        self.rows[table].append(row)


def _oid_of(name: str) -> int:
    """Return the number of a table, index or constraint."""
    return _FIRST_OID + zlib.crc32(name.encode()) % (1 << 30)
