"""A shop whose data is in four systems: a database with its changes, an API with faults, files in a bucket, and a topic.

make shop              # starts the four systems, runs this project twice, and stops them

The addresses are those that `demo.py` sets; credentials are references to the environment.
"""

from __future__ import annotations

import os

from pipeline import (
    Chart,
    dimension,
    fact,
    fail,
    files,
    kafka,
    lookup,
    mart,
    postgres,
    postgres_changes,
    quarantine,
    rest,
    source,
    sql,
    topic,
)
from pipeline.connectors.rest import Bearer

DATABASE = os.environ.get("SHOP_DATABASE", "postgresql://localhost/shop")
API = os.environ.get("SHOP_API", "http://localhost:8000")
BUCKET = os.environ.get("SHOP_BUCKET", "s3://shop")
BROKERS = os.environ.get("SHOP_BROKERS", "localhost:9092")

# The database: customers by a cursor, that is, each run reads the rows that changed since the last one ...

raw_customers = source(postgres(DATABASE, "customers", cursor="updated_at"), owner="sales")
customers = sql(
    "select id as customer_id, name, country, updated_at from raw_customers",
    key="customer_id",
    sequence_by="updated_at",
)

# ... and orders by logical replication: every insert, update and delete, in the order of the commits.

replicated = postgres_changes(DATABASE, "orders", slot="shop_example")
order_changes = source(replicated.table("orders"))
orders = sql(
    "select id as order_id, customer_id, currency, amount, status, ordered_at, _sequence, _op from order_changes",
    key="order_id",
    sequence_by="_sequence",
    apply_as_deletes="_op = 'delete'",
)

# The API: exchange rates, page by page. It answers 503 and 429 now and then, and one of its rows has no number.

raw_rates = source(
    rest(f"{API}/rates", rows="$.rates", auth=Bearer("env:SHOP_API_TOKEN"), cursor="day", rate="50/s"),
    schema={"currency": "varchar", "day": "date", "euros": "decimal(12, 6)"},
    expect=[fail("rate_is_positive", "euros > 0")],
    owner="finance",
)
rates = sql("select currency, day, euros from raw_rates", key=("currency", "day"))

# The bucket: a file per day from the carrier. A new column is added to the table when it comes.

raw_shipments = source(
    files(f"{BUCKET}/shipments/*.csv"),
    schema={"order_id": "bigint", "carrier": "varchar", "shipped_at": "timestamp"},
    new_columns="evolve",
    expect=[quarantine("has_order", "order_id is not null")],
)

# The topic, which is made by `headwater topics apply`: payments, some of them twice; the key makes them unique.

payment_topic = topic("payments", partitions=2, replicas=1, retention="7 days", servers=BROKERS)

raw_payments = source(
    kafka("payments", servers=BROKERS),
    schema={"payment_id": "varchar", "order_id": "bigint", "euros": "decimal(12, 2)", "paid_at": "timestamptz"},
)
payments = sql("select payment_id, order_id, euros, paid_at from raw_payments", key="payment_id", sequence_by="paid_at")

# One graph over the four.

paid_orders = sql(
    """
    select o.order_id, o.customer_id, o.status, o.ordered_at,
        (o.amount * r.euros)::decimal(14, 2) as euros,
        coalesce(p.paid, 0) as paid_euros,
        s.carrier, s.shipped_at
    from orders o
    left join rates r on r.currency = o.currency and r.day = o.ordered_at::date
    left join (select order_id, sum(euros) as paid from payments group by order_id) p using (order_id)
    left join (select order_id, any_value(carrier) as carrier, min(shipped_at) as shipped_at from raw_shipments group by order_id) s
        using (order_id)
    """
)
dim_customer = dimension("select customer_id, name, country from customers", key="customer_id")
fact_order = fact(
    "select order_id, customer_id, status, ordered_at, euros, paid_euros, carrier, shipped_at from paid_orders",
    key="order_id",
    lookups={"customer_key": lookup("dim_customer", "customer_id")},
)
revenue_by_country = mart(
    """
    select country, count(*) as orders, sum(euros) as euros, sum(paid_euros) as paid_euros,
        count(*) filter (shipped_at is null) as not_shipped
    from fact_order join dim_customer using (customer_key)
    where status <> 'cancelled' group by country
    """,
    key="country",
    chart=Chart("bar", x="country", y="euros", title="Revenue by country"),
)
