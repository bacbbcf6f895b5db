"""The events of the auction house: of 50 events, one is a new person, three are new auctions and 46 are bids.

The fields, proportions and skew are those of Apache Beam's generator: half of the bids go to the latest hot auction,
three quarters of the bids come from the latest hot bidder, and three quarters of the auctions from the latest hot
seller. The others refer to recent ids, and a few to later ones. The values are generated independently.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from benchmarks.stream.events import BEGINNING_US

KINDS = ("persons", "auctions", "bids")
PERSON_SCHEMA = {
    "id": "bigint",
    "name": "varchar",
    "email_address": "varchar",
    "credit_card": "varchar",
    "city": "varchar",
    "state": "varchar",
    "date_time": "timestamp",
    "extra": "varchar",
}
AUCTION_SCHEMA = {
    "id": "bigint",
    "item_name": "varchar",
    "description": "varchar",
    "initial_bid": "bigint",
    "reserve": "bigint",
    "date_time": "timestamp",
    "expires": "timestamp",
    "seller": "bigint",
    "category": "bigint",
    "extra": "varchar",
}
BID_SCHEMA = {
    "auction": "bigint",
    "bidder": "bigint",
    "price": "bigint",
    "channel": "varchar",
    "url": "varchar",
    "date_time": "timestamp",
    "extra": "varchar",
}
SCHEMAS = dict(zip(KINDS, (PERSON_SCHEMA, AUCTION_SCHEMA, BID_SCHEMA), strict=True))
KEYS = dict(zip(KINDS, ("id", "id", "auction"), strict=True))
"""The column that determines the partition of each kind."""
FIRST_ID = 1000
LONGEST_AUCTION = "1 second"
"""The maximum duration of an auction."""
_RECENT_PEOPLE, _RECENT_AUCTIONS, _LEAD = 1000, 100, 10


@dataclass(frozen=True)
class House:
    """A number of events of all three kinds, with `per_s` events per second of event time."""

    events: int
    seed: int = 0
    per_s: int = 10_000

    def build(self, con: duckdb.DuckDBPyConnection) -> None:
        """Create the tables `persons`, `auctions` and `bids`."""
        con.execute(f"create or replace macro pick(n, salt, most) as (hash(n, salt, {self.seed}) % most)::bigint")
        con.execute(
            f"""create or replace temp table house as
            select i, i % 50 as place, i // 50 as person, i // 50 * 3 + least(i % 50, 3) - 1 as auction,
                make_timestamp({BEGINNING_US} + i * 1000000 // {self.per_s}) as date_time
            from (select range as i from range({self.events}))"""
        )
        for kind, select in zip(KINDS, (_PERSONS, _AUCTIONS, _BIDS), strict=True):
            con.execute(f"create or replace table {kind} as {select}")
        con.execute("drop table house")


def _recent(last: str, salt: int, count: int) -> str:
    """Return an expression for a number near the last one: among the latest `count`, or slightly ahead."""
    return f"greatest({last} - {count}, 0) + pick(i, {salt}, least({last}, {count}) + {_LEAD})"


_PERSONS = f"""select {FIRST_ID} + person as id,
    ['Peter', 'Paul', 'Luke', 'John', 'Saul', 'Vicky', 'Kate', 'Julie', 'Sarah', 'Deiter', 'Walter'][1 + pick(i, 1, 11)]
        || ' ' || ['Shultz', 'Abrams', 'Spencer', 'White', 'Bartels', 'Walton', 'Smith', 'Jones', 'Noris'][1 + pick(i, 2, 9)]
        as name,
    left(md5('mail' || i), 7) || '@' || left(md5('host' || i), 5) || '.com' as email_address,
    lpad(pick(i, 3, 10000000000000000)::varchar, 16, '0') as credit_card,
    ['Phoenix', 'Los Angeles', 'San Francisco', 'Boise', 'Portland', 'Bend', 'Redmond', 'Seattle', 'Kent', 'Cheyenne']
        [1 + pick(i, 4, 10)] as city,
    ['AZ', 'CA', 'ID', 'OR', 'WA', 'WY'][1 + pick(i, 5, 6)] as state, date_time, md5('person' || i) as extra
from house where place = 0"""
_AUCTIONS = f"""select {FIRST_ID} + auction as id, left(md5('item' || i), 20) as item_name,
    md5('what' || i) as description, price as initial_bid, price + round(100 * pow(10, pick(i, 11, 1000) / 1000 * 6))::bigint
        as reserve,
    date_time, date_time + to_milliseconds(1 + pick(i, 12, 1000)) as expires,
    {FIRST_ID} + case when pick(i, 13, 4) > 0 then person // 100 * 100
        else {_recent("person", 14, _RECENT_PEOPLE)} end as seller,
    10 + pick(i, 15, 5) as category, md5('auction' || i) as extra
from (select *, round(100 * pow(10, pick(i, 10, 1000) / 1000 * 6))::bigint as price from house where place between 1 and 3)"""
_BIDS = f"""select {FIRST_ID} + case when pick(i, 20, 2) > 0 then auction // 100 * 100
        else {_recent("auction", 21, _RECENT_AUCTIONS)} end as auction,
    {FIRST_ID} + case when pick(i, 22, 4) > 0 then person // 100 * 100 + 1
        else {_recent("person", 23, _RECENT_PEOPLE)} end as bidder,
    round(100 * pow(10, pick(i, 24, 100000) / 100000 * 6))::bigint as price, channel,
    'https://www.nexmark.com/' || left(md5(channel), 5) || '/item.htm?query=1' as url, date_time, md5('bid' || i) as extra
from (select *, case when pick(i, 25, 2) > 0 then ['Google', 'Facebook', 'Baidu', 'Apple'][1 + pick(i, 26, 4)]
        else 'channel-' || pick(i, 27, 10000) end as channel
    from house where place > 3)"""
