"""Templates of definitions, for connectors whose systems discovery cannot look at: queues, APIs, taps and change data."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.core.errors import RequestError


@dataclass(frozen=True)
class Template:
    """The code of a definition. It loads as it is; what it reads, and its columns, are examples."""

    code: str
    """With `{name}`, and as far as they apply with `{uri}`, `{table}` and `{password}`."""
    uri: str = ""
    """An example of what `{uri}` stands for."""
    table: str = "orders"
    functions: tuple[str, ...] = field(default=("source",))
    """The functions of the package `pipeline` that it uses besides that of the connector."""

    def filled(self, name: str, uri: str | None, table: str | None, password: str | None) -> str:
        """Return the code for the variable `name`; what is not given is an example.

        Raises `RequestError` for something that the template has no place for.
        """
        given = {"uri": uri, "table": table, "password": password}
        for each, value in given.items():
            if value is not None and f"{{{each}}}" not in self.code:
                option = "a URI" if each == "uri" else f"--{each}"
                raise RequestError(f"this connector has no place for {option}", got=repr(value), do="leave it out")
        examples = {"uri": self.uri, "table": self.table, "password": "env:PASSWORD"}
        texts = {each: repr(examples[each] if value is None else value) for each, value in given.items()}
        code = self.code.replace("{name}", name)
        for each, text in texts.items():
            code = code.replace(f"{{{each}}}", text.replace("'", '"') if '"' not in text else text)
        return code


_SCHEMA = 'schema={"id": "bigint", "at": "timestamptz"}'
_STREAM = f'    {_SCHEMA},\n    event_time="at",\n    lateness="1 minute",\n)\n'
_CHANGES = (
    "{name} = source({name}_changes.table({table}))\n"
    "{name}_current = sql(\n"
    '    "select * exclude (_source, _position, _ingested_at) from {name}",\n'
    '    key="id",\n'
    '    sequence_by="_sequence",\n'
    "    apply_as_deletes=\"_op = 'delete'\",\n"
    "    apply_as_truncates=\"_op = 'truncate'\",\n"
    '    unavailable_columns="_unavailable",\n'
    '    except_column_list=["_op", "_sequence", "_committed_at"],\n'
    ")\n"
)
_DATABASE = "{name} = source(\n    %s,\n" + f"    {_SCHEMA},\n)\n"
TEMPLATES = {
    "postgres_changes": Template(
        '{name}_changes = postgres_changes({uri}, {table}, slot="headwater_{name}", password={password})\n' + _CHANGES,
        "postgresql://reader@db.example.com/shop",
        functions=("source", "sql"),
    ),
    "mysql_changes": Template(
        "{name}_changes = mysql_changes({uri}, {table}, password={password})\n" + _CHANGES,
        "mysql://reader@db.example.com/shop",
        functions=("source", "sql"),
    ),
    "sql_database": Template(
        _DATABASE % 'sql_database({uri}, {table}, key="id", cursor="at", password={password})',
        "cockroachdb://reader@db.example.com/shop",
    ),
    "adbc": Template(
        _DATABASE % 'adbc("adbc_driver_flightsql", {uri}, {table}, key="id", cursor="at")',
        "grpc+tls://db.example.com:443",
    ),
    "snowflake_table": Template(
        _DATABASE % 'snowflake_table({uri}, {table}, key="ID", cursor="AT")', "env:SNOWFLAKE_URL", "SHOP.PUBLIC.ORDERS"
    ),
    "bigquery": Template(_DATABASE % 'bigquery({uri}, {table}, key="id", cursor="at")', "my-project", "shop.orders"),
    "sqlserver": Template(
        _DATABASE % 'sqlserver({uri}, {table}, key="id", cursor="at", password={password})',
        "mssql+pymssql://reader@db.example.com/shop",
        "dbo.orders",
    ),
    "oracle": Template(
        _DATABASE % 'oracle({uri}, {table}, key="id", cursor="at", password={password})',
        "oracle+oracledb://reader@db.example.com/?service_name=shop",
        "SHOP.ORDERS",
    ),
    "graphql": Template(
        '# auth=Bearer("env:TOKEN"), from pipeline.connectors.rest, signs in\n'
        "{name} = source(\n"
        "    graphql(\n"
        "        {uri},\n"
        '        """\n'
        "        query ($after: String) {\n"
        "          orders(first: 100, after: $after) {\n"
        "            nodes { id at }\n"
        "            pageInfo { hasNextPage endCursor }\n"
        "          }\n"
        "        }\n"
        '        """,\n'
        "    ),\n"
        '    schema={"id": "varchar", "at": "timestamptz"},\n'
        ")\n",
        "https://api.example.com/graphql",
    ),
    "odata": Template(
        '# auth=Bearer("env:TOKEN"), from pipeline.connectors.rest, signs in\n'
        + _DATABASE % 'odata({uri}, {table}, select=["id", "at"], cursor="at")',
        "https://erp.example.com/api/v4",
    ),
    "server_sent_events": Template(
        '# auth=Bearer("env:TOKEN"), from pipeline.connectors.rest, signs in\n'
        "{name} = source(\n    server_sent_events({uri}),\n" + _STREAM,
        "https://stream.example.com/changes",
    ),
    "webhook": Template(
        '# Signature("env:KEY", scheme=…), from pipeline.connectors.webhook, as signature= instead of unsigned=True\n'
        '{name} = source(\n    webhook({uri}, unsigned=True, metadata=("id", "received_at")),\n'
        '    schema={"amount": "decimal(10, 2)", "_id": "varchar", "_received_at": "timestamptz"},\n'
        ")\n",
        "payments",
    ),
    "event_hubs": Template(
        '{name} = source(\n    event_hubs({table}, namespace={uri}, connection="env:EVENT_HUBS_CONNECTION"),\n'
        + _STREAM,
        "orders",
        "clicks",
    ),
    "mqtt": Template(
        '{name} = source(\n    mqtt({table}, client_id="headwater-{name}", url={uri}, user="reader", password={password}),\n'
        + _STREAM,
        "mqtts://broker.example.com:8883",
        "plant/+/temperature",
    ),
    "rabbitmq_queue": Template(
        '{name} = source(\n    rabbitmq_queue({table}, url={uri}, user="reader", password={password}),\n' + _STREAM,
        "amqps://rabbit.example.com:5671/",
    ),
    "kinesis": Template('{name} = source(\n    kinesis({uri}, region="eu-west-1"),\n' + _STREAM, "clicks"),
    "pubsub": Template(
        "{name} = source(\n    pubsub({uri}),\n" + _STREAM, "projects/shop/subscriptions/headwater-orders"
    ),
    "singer": Template(
        '{name} = source(\n    singer({uri}, {table}, config={"access_token": "env:TOKEN"}, cursor="at"),\n'
        f"    {_SCHEMA},\n)\n",
        "tap-github",
        "commits",
    ),
    "airbyte_messages": Template(
        '{name} = source(\n    airbyte_messages({uri}, {table}, config={"count": 1000}, cursor="at"),\n'
        f"    {_SCHEMA},\n)\n",
        "source-faker",
        "users",
    ),
    "dlt_resource": Template(
        "def {name}_resource():\n"
        "    import dlt  # put what you import from a source of dlt in its place\n"
        "\n"
        '    return dlt.resource([{"id": 1, "at": "2026-01-01T00:00:00Z"}], name="{name}")\n'
        "\n\n"
        '{name} = source(\n    dlt_resource({name}_resource, name="{name}"),\n'
        f"    {_SCHEMA},\n)\n",
    ),
    "generate": Template(
        '{name} = source(\n    generate({"id": "i", "at": "timestamptz \'2026-01-01\' + to_seconds(i)"}, count=1_000),\n'
        + _STREAM
    ),
}
"""By the name of the connector."""
