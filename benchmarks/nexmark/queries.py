"""NEXMark's queries as Headwater definitions, each with an independent oracle in plain SQL over all events.

Persons, auctions and bids are streams, joined within time bounds that are wide enough to include every match. A query
that cannot be streamed as one definition uses several. Streams are drained at the end, so that every window closes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.nexmark.events import LONGEST_AUCTION

LONG = "interval '2 hours'"
"""Longer than the time span of all events."""


@dataclass(frozen=True)
class Streamed:
    """One streamed table: its SQL, or the argument of another definition function, and its options."""

    sql: str
    options: Mapping[str, object] = field(default_factory=dict)
    word: str = "sql"

    def text(self, name: str) -> str:
        """Return the definition."""
        options = "".join(f", {option}={value!r}" for option, value in self.options.items())
        return f"from pipeline import {self.word}\n{name} = {self.word}({self.sql!r}{options})\n"


@dataclass(frozen=True)
class Query:
    """Streamed tables in order; the last one is the answer, and the oracle has the same columns in the same order.

    `afterwards` is computed by `headwater run` once the streams have caught up. `note` says how the query differs from
    NEXMark's.
    """

    name: str
    asks: str
    tables: Mapping[str, Streamed]
    oracle: str
    afterwards: Mapping[str, Streamed] = field(default_factory=dict)
    note: str = ""

    @property
    def answer(self) -> str:
        """The name of the table with the answer."""
        return list({**self.tables, **self.afterwards})[-1]

    @property
    def columns(self) -> Sequence[str]:
        """The compared columns: those in the comment `-- columns:` of the oracle."""
        line = next(line for line in self.oracle.splitlines() if line.strip().startswith("-- columns:"))
        return [column.strip() for column in line.partition(":")[2].split(",")]


def _one(name: str, asks: str, sql: str, oracle: str, note: str = "", **options: object) -> Query:
    return Query(name, asks, {name: Streamed(sql, options)}, oracle, note=note)


Q0 = _one(
    "q0",
    "every bid, unchanged",
    "select auction, bidder, price, date_time, extra from bids",
    """-- columns: auction, bidder, price, date_time, extra
    select auction, bidder, price, date_time, extra from bids""",
)
Q1 = _one(
    "q1",
    "every bid in another currency",
    "select auction, bidder, 0.908 * price as price, date_time, extra from bids",
    """-- columns: auction, bidder, price, date_time, extra
    select auction, bidder, price * 908 / 1000 as price, date_time, extra from bids""",
)
Q2 = _one(
    "q2",
    "bids on some auctions",
    "select auction, price from bids where auction % 123 = 0",
    """-- columns: auction, price
    select auction, price from bids where auction in (select 123 * range from range(100000))""",
)
Q3 = _one(
    "q3",
    "sellers in category 10 in three states",
    f"""select p.name, p.city, p.state, a.id from auctions as a join persons as p on a.seller = p.id
        and p.date_time between a.date_time - {LONG} and a.date_time + {LONG}
    where a.category = 10 and p.state in ('OR', 'ID', 'CA')""",
    """-- columns: name, city, state, id
    select p.name, p.city, p.state, a.id
    from (from persons where state = 'OR' or state = 'ID' or state = 'CA') as p
        join (from auctions where category = 10) as a on p.id = a.seller""",
    note="NEXMark's join has no time bound; ours has one of two hours in both directions",
)
OPEN = f"""b.auction = a.id and b.date_time between a.date_time and a.date_time + interval '{LONGEST_AUCTION}'
        and b.date_time <= a.expires"""
Q4 = Query(
    "q4",
    "the mean winning price of each category",
    {
        "q4_prices": Streamed(
            f"""select a.id, a.category, b.price, b.price * 1000000 + b.bidder % 1000000 as standing
            from bids as b join auctions as a on {OPEN}""",
            {"key": "id", "sequence_by": "standing"},
        )
    },
    """-- columns: category, mean
    with won as (
        select a.id, any_value(a.category) as category, max(b.price) as price from auctions as a, bids as b
        where a.id = b.auction and b.date_time >= a.date_time and b.date_time <= a.expires group by a.id
    ) select category, avg(price) as mean from won group by category""",
    {"q4": Streamed("select category, avg(price) as mean from q4_prices group by category")},
    note="the best price of each auction is streamed; the mean over updated rows is computed in batch afterwards",
)
Q5 = Query(
    "q5",
    "the auctions with most bids in the last 10 seconds, every 2 seconds",
    {
        "q5_counts": Streamed(
            """select hop(date_time, interval '2 seconds', interval '10 seconds') as window_start, auction, count(*) as bids
            from bids group by all""",
            {"event_time": "window_start"},
        ),
        "q5_most": Streamed(
            """select tumble(window_start, interval '2 seconds') as window_start, max(bids) as bids
            from q5_counts group by all""",
            {"event_time": "window_start"},
        ),
        "q5": Streamed(
            """select c.window_start, c.auction, c.bids from q5_counts as c join q5_most as m
            on c.window_start = m.window_start and c.bids = m.bids"""
        ),
    },
    """-- columns: window_start, auction, bids
    with starts as (
        select b.auction, unnest(range(
            time_bucket(interval '2 seconds', date_time) - interval '8 seconds',
            time_bucket(interval '2 seconds', date_time) + interval '1 second', interval '2 seconds')) as window_start
        from bids as b
    ), counts as (select window_start, auction, count(*) as bids from starts group by all)
    select window_start, auction, bids from counts
    qualify rank() over (partition by window_start order by bids desc) = 1""",
    note="three streams: counts, the maximum of each window, and the counts equal to it",
)
Q7 = Query(
    "q7",
    "the highest bids of each 10 seconds",
    {
        "q7_highest": Streamed(
            """select tumble(date_time, interval '10 seconds') as window_start, max(price) as price
            from bids group by all""",
            {"event_time": "window_start"},
        ),
        "q7": Streamed(
            """select b.auction, b.bidder, b.price, b.date_time, b.extra from bids as b join q7_highest as h
            on b.price = h.price and b.date_time >= h.window_start
                and b.date_time < h.window_start + interval '10 seconds'"""
        ),
    },
    """-- columns: auction, bidder, price, date_time, extra
    select auction, bidder, price, date_time, extra from bids
    qualify rank() over (partition by time_bucket(interval '10 seconds', date_time) order by price desc) = 1""",
)
Q8 = Query(
    "q8",
    "people who registered and opened an auction in the same 10 seconds",
    {
        "q8_members": Streamed(
            """select tumble(date_time, interval '10 seconds') as window_start, id, name from persons group by all""",
            {"event_time": "window_start"},
        ),
        "q8_sellers": Streamed(
            """select tumble(date_time, interval '10 seconds') as window_start, seller from auctions group by all""",
            {"event_time": "window_start"},
        ),
        "q8": Streamed(
            """select m.id, m.name, m.window_start from q8_members as m join q8_sellers as s
            on m.id = s.seller and m.window_start = s.window_start"""
        ),
    },
    """-- columns: id, name, window_start
    select distinct p.id, p.name, time_bucket(interval '10 seconds', p.date_time) as window_start from persons as p
    where exists (from auctions as a where a.seller = p.id
        and time_bucket(interval '10 seconds', a.date_time) = time_bucket(interval '10 seconds', p.date_time))""",
)
Q9 = _one(
    "q9",
    "the winning bid of each auction",
    f"""select a.id, a.seller, b.bidder, b.price, b.date_time,
        b.price::decimal(38, 0) * 10000000000000000 - epoch_us(b.date_time) as standing
    from bids as b join auctions as a on {OPEN}""",
    """-- columns: id, seller, bidder, price, date_time
    select a.id, a.seller, b.bidder, b.price, b.date_time from auctions as a, bids as b
    where a.id = b.auction and b.date_time >= a.date_time and b.date_time <= a.expires
    qualify row_number() over (partition by a.id order by b.price desc, b.date_time) = 1""",
    key="id",
    sequence_by="standing",
    note="a merged table: it keeps the highest bid of an auction, and the first of equal ones",
)
Q11 = _one(
    "q11",
    "the number of bids of each bidder per session",
    "select bidder, session(date_time, interval '10 seconds') as started, count(*) as bids from bids group by all",
    """-- columns: bidder, started, bids
    with gaps as (
        select bidder, date_time, date_time - lag(date_time) over each as gap from bids
        window each as (partition by bidder order by date_time)
    ), numbered as (
        select bidder, date_time, count(*) filter (gap >= interval '10 seconds')
            over (partition by bidder order by date_time rows unbounded preceding) as number from gaps
    ) select bidder, min(date_time) as started, count(*) as bids from numbered group by bidder, number""",
)
Q12 = _one(
    "q12",
    "the number of bids of each bidder per 10 seconds",
    "select bidder, tumble(date_time, interval '10 seconds') as window_start, count(*) as bids from bids group by all",
    """-- columns: bidder, window_start, bids
    select bidder, time_bucket(interval '10 seconds', date_time) as window_start, count(*) as bids
    from bids group by all""",
    note="in event time: NEXMark uses processing time, for which no oracle can be computed",
)
Q13 = _one(
    "q13",
    "bids joined with a small table",
    """select b.auction, b.bidder, b.price, b.date_time, s.value from bids as b join sides as s on b.auction % 1000 = s.id""",
    """-- columns: auction, bidder, price, date_time, value
    select auction, bidder, price, date_time, 'side ' || auction % 1000 as value from bids""",
    note="the small table is stored in the lake before the stream starts",
)
_RANKS = """count(*) as total_bids, count(*) filter (price < 10000) as low_bids,
        count(*) filter (price >= 10000 and price < 1000000) as middle_bids, count(*) filter (price >= 1000000) as high_bids"""
Q16 = _one(
    "q16",
    "bids, bidders and auctions by channel and day",
    f"""select channel, date_time::date as day, {_RANKS},
        count(distinct bidder) as bidders, count(distinct bidder) filter (price >= 1000000) as high_bidders,
        count(distinct auction) as auctions, count(distinct auction) filter (price >= 1000000) as high_auctions
    from bids group by all""",
    """-- columns: channel, day, total_bids, low_bids, middle_bids, high_bids, bidders, high_bidders, auctions, high_auctions
    select channel, date_trunc('day', date_time)::date as day, count(*) as total_bids,
        sum((price < 10000)::int) as low_bids, sum((price between 10000 and 999999)::int) as middle_bids,
        sum((price > 999999)::int) as high_bids, len(list_distinct(list(bidder))) as bidders,
        coalesce(len(list_distinct(list(bidder) filter (price > 999999))), 0) as high_bidders,
        len(list_distinct(list(auction))) as auctions,
        coalesce(len(list_distinct(list(auction) filter (price > 999999))), 0) as high_auctions
    from bids group by all""",
    key=("channel", "day"),
    emit="change",
)
Q17 = _one(
    "q17",
    "bids and prices by auction and day",
    f"""select auction, date_time::date as day, {_RANKS},
        min(price) as least, max(price) as most, avg(price) as mean, sum(price) as total from bids group by all""",
    """-- columns: auction, day, total_bids, low_bids, middle_bids, high_bids, least, most, mean, total
    select auction, date_trunc('day', date_time)::date as day, count(*) as total_bids,
        sum((price < 10000)::int) as low_bids, sum((price between 10000 and 999999)::int) as middle_bids,
        sum((price > 999999)::int) as high_bids, list_min(list(price)) as least, list_max(list(price)) as most,
        sum(price) / count(price) as mean, sum(price) as total from bids group by all""",
    key=("auction", "day"),
    emit="change",
)
Q18 = Query(
    "q18",
    "the last bid of each bidder on each auction",
    {
        "q18": Streamed(
            "bids", {"key": ("auction", "bidder"), "event_time": "date_time", "keep": "last"}, word="deduplicate"
        )
    },
    """-- columns: auction, bidder, price, channel, date_time, extra
    select auction, bidder, price, channel, date_time, extra from bids
    qualify row_number() over (partition by bidder, auction order by date_time desc) = 1""",
)
Q19 = Query(
    "q19",
    "the ten highest bids on each auction",
    {
        "q19_best": Streamed(
            """select auction, max({'price': price, 'before': -epoch_us(date_time), 'bidder': bidder}, 10) as best
            from bids group by auction""",
            {"key": "auction", "emit": "change"},
        )
    },
    """-- columns: auction, bidder, price, date_time, standing
    select auction, b.bidder, b.price, b.date_time, standing from (
        select auction, unnest(best) as b, unnest(range(1, len(best) + 1)) as standing from (
            select auction, list({'bidder': bidder, 'price': price, 'date_time': date_time}
                order by price desc, date_time)[:10] as best from bids group by auction
        )
    )""",
    {
        "q19": Streamed(
            """select auction, b.bidder, b.price, make_timestamp(-b.before) as date_time, standing from (
                select auction, unnest(best) as b, unnest(range(1, len(best) + 1)) as standing from q19_best
            )"""
        )
    },
    note="the ten bids are streamed as one list per auction; batch computes one row per bid afterwards",
)

QUERIES = {q.name: q for q in (Q0, Q1, Q2, Q3, Q4, Q5, Q7, Q8, Q9, Q11, Q12, Q13, Q16, Q17, Q18, Q19)}
