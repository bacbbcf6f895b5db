"""A star schema of sales: its data, its tables in Headwater and in DuckDB, and the queries that a dashboard asks.

Sales arrive in the order of time. The same queries run in both, over tables of the same names; the statements of `IN_DUCKDB`
are those that a user of DuckDB would write, with the natural keys as keys.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

SHOPS, PRODUCTS, DAYS = 100, 2000, 365
CALLS = 50
"""How often each query is asked, each time with other values."""


def sales(rows: int) -> str:
    """Return the SELECT over `i` of this many sales."""
    return (
        f"select i::bigint as sale, timestamp '2026-01-01' + to_seconds((i * {DAYS} * 86400) // {rows}) as sold_at, "
        f"(hash(i) % {SHOPS})::integer as shop, (hash(i + 1) % {PRODUCTS})::integer as product, "
        "(hash(i + 2) % 5 + 1)::integer as quantity, ((hash(i + 3) % 100000) / 100)::decimal(12, 2) as amount"
    )


MEMBERS = {
    "shops": f"select i::integer as shop, 'shop ' || i as name, 'region ' || i % 10 as region from range({SHOPS}) r(i)",
    "products": f"select i::integer as product, 'product ' || i as name, 'category ' || i % 20 as category from range({PRODUCTS}) r(i)",
}
BY_DAY = (
    "select f.day, s.shop, s.name, s.region, count(*) as sales, sum(f.quantity)::bigint as quantity, sum(f.amount) as amount "
    "from fact_sale f join dim_shop s using (shop_key) group by all"
)
BY_PRODUCT = (
    "select date_trunc('month', f.day)::date as month, p.product, p.name, p.category, s.region, count(*) as sales, "
    "sum(f.amount) as amount from fact_sale f join dim_shop s using (shop_key) join dim_product p using (product_key) group by all"
)
DEFINITIONS = f'''
from pipeline import date_dimension, dimension, fact, files, lookup, mart, source

raw_sales = source(files("data/sales/*.parquet"))
raw_shops = source(files("data/shops.parquet"))
raw_products = source(files("data/products.parquet"))
dim_shop = dimension("select shop, name, region from raw_shops", key="shop")
dim_product = dimension("select product, name, category from raw_products", key="product")
dim_date = date_dimension("2026-01-01", "2026-12-31")
fact_sale = fact(
    "select sale, shop, product, sold_at::date as day, quantity, amount from raw_sales",
    key="sale",
    lookups={{
        "shop_key": lookup("dim_shop", "shop"),
        "product_key": lookup("dim_product", "product"),
        "date_key": lookup("dim_date", {{"day": "date"}}),
    }},
)
sales_by_day = mart("""{BY_DAY}""")
sales_by_product = mart("""{BY_PRODUCT}""")
'''
FACTS = (
    "create table fact_sale as select sale, shop, product, sold_at::date as day, quantity, amount, shop as shop_key, "
    "product as product_key, strftime(sold_at::date, '%Y%m%d')::integer as date_key from read_parquet('{}/*.parquet')"
)
IN_DUCKDB = (
    f"create table dim_shop as select shop as shop_key, * from ({MEMBERS['shops']})",
    f"create table dim_product as select product as product_key, * from ({MEMBERS['products']})",
    FACTS,
    f"create table sales_by_day as {BY_DAY}",
    f"create table sales_by_product as {BY_PRODUCT}",
)
"""The statements that create the tables; `{}` is the folder of the sales."""
QUERIES: Mapping[str, Mapping[str, str]] = {
    "marts": {
        "filter": "select sum(sales)::bigint as sales, sum(amount) as amount from sales_by_day where shop = {shop} and day between {day} and {day} + 29",
        "top": "select name, sum(amount) as amount from sales_by_product where month = date_trunc('month', {day}) group by name order by amount desc, name limit 10",
        "series": "select day, sum(amount) as amount from sales_by_day where region = {region} group by day order by day",
        "two dimensions": "select region, category, sum(amount) as amount from sales_by_product where month >= date_trunc('quarter', {day}) "
        "and month < date_trunc('quarter', {day}) + interval 3 months group by all order by all",
    },
    "star": {
        "filter": "select count(*) as sales, sum(amount) as amount from fact_sale where shop = {shop} and day between {day} and {day} + 29",
        "top": "select p.name, sum(f.amount) as amount from fact_sale f join dim_product p using (product_key) "
        "where f.day between {day} and {day} + 29 group by p.name order by amount desc, p.name limit 10",
        "series": "select f.day, sum(f.amount) as amount from fact_sale f join dim_shop s using (shop_key) where s.region = {region} group by f.day order by f.day",
        "two dimensions": "select s.region, p.category, sum(f.amount) as amount from fact_sale f join dim_shop s using (shop_key) "
        "join dim_product p using (product_key) where f.day >= date_trunc('quarter', {day}) "
        "and f.day < date_trunc('quarter', {day}) + interval 3 months group by all order by all",
    },
}


def asked(of: str, calls: int = CALLS) -> dict[str, Sequence[str]]:
    """Return the texts of each query of marts or of the star schema, with values drawn from a fixed seed."""
    drawn = random.Random(1)  # noqa: S311 - values of a benchmark

    def values() -> dict[str, str]:
        return {
            "shop": str(drawn.randrange(SHOPS)),
            "region": f"'region {drawn.randrange(10)}'",
            "day": f"(date '2026-01-01' + {drawn.randrange(DAYS)})",
        }

    return {name: [text.format(**values()) for _ in range(calls)] for name, text in QUERIES[of].items()}
