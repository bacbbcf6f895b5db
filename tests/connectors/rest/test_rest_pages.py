"""The styles of pagination against a server, declared and detected, and what keeps a fetch from never ending."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.connectors.http.json_rows import JsonBody, path_of
from pipeline.connectors.rest import pages as styles
from pipeline.connectors.rest.source import rest
from pipeline.core.cursors import Bound, Cursor
from pipeline.core.errors import DefinitionError, Place, SourceError
from tests.rigs.http_faults import HttpServer, Received, Reply, http_server

ROWS = [{"id": number, "name": f"n{number}"} for number in range(1, 8)]
SIZE = 3


@pytest.fixture(scope="module")
def running():
    with http_server() as server:
        yield server


@pytest.fixture
def server(running):
    running.routes, running.script, running.received = {}, [], []
    return running


def rows_of(reader, cursor: Cursor | None = None, **bound: int) -> list[Any]:
    plan = reader.plan(cursor, Bound(**bound))
    found = []
    for split in plan.splits:
        with reader.segments.path(split.source_object.stamp + ".ndjson") as path:
            found += [json.loads(line) for line in Path(path).read_text().splitlines()]
    return found


Answer = Callable[[Received, list[Any]], Reply]


def by_token(name: str, wrap: Callable[[list[Any], str | None], Reply]) -> Answer:
    def answer(received: Received, rows: list[Any]) -> Reply:
        begin = int(received.params.get(name, "at-0").removeprefix("at-"))
        following = f"at-{begin + SIZE}" if begin + SIZE < len(rows) else None
        return wrap(rows[begin : begin + SIZE], following)

    return answer


def by_number(name: str, begin: int, *, total: bool) -> Answer:
    def answer(received: Received, rows: list[Any]) -> Reply:
        page = int(received.params.get(name, begin))
        size = int(received.params.get("per_page", SIZE))
        at = (page - begin) * size
        pages = {"page": page, "total_pages": -(-len(rows) // size)} if total else {}
        return Reply({"items": rows[at : at + size], **pages})

    return answer


def by_offset(*, total: bool) -> Answer:
    def answer(received: Received, rows: list[Any]) -> Reply:
        at, limit = int(received.params.get("offset", 0)), min(int(received.params.get("limit", SIZE)), SIZE)
        counts = {"offset": at, "total": len(rows)} if total else {}
        return Reply({"items": rows[at : at + limit], **counts})

    return answer


def by_link(received: Received, rows: list[Any]) -> Reply:
    at = int(received.params.get("at", 0))
    links = ['<https://api.example.com/first>; rel="first"; title="a, b"']
    links += [f'</items?at={at + SIZE}>; title="next page"; rel="prefetch next"'] if at + SIZE < len(rows) else []
    return Reply(rows[at : at + SIZE], headers={"Link": ", ".join(links)})


def by_url(received: Received, rows: list[Any]) -> Reply:
    at = int(received.params.get("at", 0))
    following = f"/items?at={at + SIZE}&q={received.params.get('q', '')}" if at + SIZE < len(rows) else None
    return Reply({"data": rows[at : at + SIZE], "links": {"next": following}})


def by_range(received: Received, rows: list[Any]) -> Reply:
    begin, end = (int(n) for n in received.headers.get("range", "items=0-2").removeprefix("items=").split("-"))
    if begin >= len(rows):
        return Reply(b"", 416, {"Content-Range": f"items */{len(rows)}"})
    part = rows[begin : end + 1]
    return Reply(part, 206, {"Content-Range": f"items {begin}-{begin + len(part) - 1}/*"})


CASES: dict[str, tuple[Answer, styles.Pages | None]] = {
    "link": (by_link, styles.LinkHeader()),
    "link, detected": (by_link, None),
    "url": (by_url, styles.NextUrl("$.links.next")),
    "url, detected": (by_url, None),
    "cursor": (
        by_token("after", lambda rows, n: Reply({"items": rows, "meta": {"end": n}})),
        styles.BodyCursor("$.meta.end", "after"),
    ),
    "cursor with more": (
        by_token("after", lambda rows, n: Reply({"items": rows, "end": n or "at-99", "more": n is not None})),
        styles.BodyCursor("$.end", "after", more="$.more"),
    ),
    "cursor, detected": (by_token("cursor", lambda rows, n: Reply({"rows": rows, "meta": {"next_cursor": n}})), None),
    "token, detected": (by_token("pageToken", lambda rows, n: Reply({"rows": rows, "nextPageToken": n or ""})), None),
    "header": (
        by_token("c", lambda rows, n: Reply(rows, headers={} if n is None else {"X-Cursor": n})),
        styles.HeaderCursor("X-Cursor", "c"),
    ),
    "header, detected": (
        by_token("cursor", lambda rows, n: Reply(rows, headers={} if n is None else {"X-Next-Cursor": n})),
        None,
    ),
    "page": (by_number("page", 1, total=False), styles.PageNumber()),
    "page from 0": (by_number("p", 0, total=False), styles.PageNumber("p", begin=0, size=2)),
    "page of a total": (by_number("page", 1, total=True), styles.PageNumber(total_pages="$.total_pages")),
    "page, detected": (by_number("page", 1, total=True), None),
    "page from 0, detected": (by_number("page", 0, total=True), None),
    "offset, the server returns fewer": (by_offset(total=False), styles.Offset(limit=5)),
    "offset of a total": (by_offset(total=True), styles.Offset(limit=2, total="$.total")),
    "offset, detected": (by_offset(total=True), None),
    "range": (by_range, styles.RangeHeader(size=3)),
}


@pytest.mark.share(40)
@pytest.mark.parametrize("count", [0, 1, 3, 6, 7])
@pytest.mark.parametrize("case", CASES)
def test_every_row_is_fetched_once(server, tmp_path, case, count):
    answer, pages = CASES[case]
    server.routes["/items"] = lambda received: answer(received, ROWS[:count])
    reader = rest(f"{server.url}/items", pages=pages, params={"q": "a b"}, spool=str(tmp_path))
    assert rows_of(reader) == ROWS[:count]
    assert all(received.params.get("q") == "a b" for received in server.received[:1])


@pytest.mark.parametrize("case", CASES)
def test_a_limited_fetch_is_continued_by_later_plans(server, tmp_path, case):
    answer, pages = CASES[case]
    server.routes["/items"] = lambda received: answer(received, ROWS)
    reader = rest(f"{server.url}/items", pages=pages, spool=str(tmp_path))
    found, cursor = [], None
    for _ in range(4):
        plan = reader.plan(cursor, Bound(rows=1))
        cursor = Cursor(plan.cursor.kind, json.loads(json.dumps(plan.cursor.value)))
        for split in plan.splits:
            with reader.segments.path(split.source_object.stamp + ".ndjson") as path:
                found += [json.loads(line) for line in Path(path).read_text().splitlines()]
        if not plan.has_more:
            break
    assert found == ROWS
    assert reader.plan(cursor).splits == ()


def reader_of(server: HttpServer, folder: Path, pages: styles.Pages | None = None, **options: Any):
    return rest(f"{server.url}/items", pages=pages, spool=str(folder), **options)


def test_a_cursor_that_repeats_ends_the_fetch(server, tmp_path):
    server.routes["/items"] = lambda r: Reply(
        {"items": ROWS[:3] if "cursor" not in r.params else ROWS[3:], "next_cursor": "x"}
    )
    assert rows_of(reader_of(server, tmp_path)) == ROWS
    assert len(server.received) == 2


def test_a_cursor_that_is_ignored_is_an_error(server, tmp_path):
    number = iter(range(99))
    server.routes["/items"] = lambda _: Reply({"items": ROWS, "next_cursor": f"c{next(number)}"})
    with pytest.raises(
        SourceError, match=r"page 2 has the same rows as page 1, so the fetch would not end: got 7 rows; check"
    ):
        rows_of(reader_of(server, tmp_path))


def test_an_offset_that_is_clamped_is_an_error(server, tmp_path):
    server.routes["/items"] = lambda r: Reply({"items": ROWS[min(int(r.params["offset"]), 4) :][:3]})
    with pytest.raises(SourceError, match="page 4 has the same rows as page 3"):
        rows_of(reader_of(server, tmp_path, styles.Offset(limit=3)))


def test_a_last_page_with_a_cursor_and_no_rows(server, tmp_path):
    pages = {"": (ROWS[:3], "a"), "a": ([], "a")}
    server.routes["/items"] = lambda r: Reply(
        dict(zip(("items", "next_cursor"), pages[r.params.get("cursor", "")], strict=True))
    )
    assert rows_of(reader_of(server, tmp_path)) == ROWS[:3]


def test_rows_after_an_empty_page_are_fetched_but_not_without_end(server, tmp_path):
    contents = {0: ROWS[:3], 2: ROWS[3:]}
    server.routes["/items"] = lambda r: Reply(
        {"items": contents.get(at := int(r.params.get("cursor", 0)), []), "next_cursor": str(at + 1)}
    )
    assert rows_of(reader_of(server, tmp_path)) == ROWS
    assert len(server.received) == 6


@pytest.mark.parametrize("style", [styles.NextUrl(), styles.BodyCursor(more="$.more")])
def test_empty_pages_are_followed_if_the_response_says_that_more_follow(server, tmp_path, style):
    last = 9

    def page(request):
        at = int(request.params.get("cursor", 0))
        following = {} if at == last else {"next": f"/items?cursor={at + 1}", "next_cursor": str(at + 1)}
        return Reply({"items": {0: ROWS[:3], last: ROWS[3:]}.get(at, []), "more": at < last, **following})

    server.routes["/items"] = page
    assert rows_of(reader_of(server, tmp_path, style)) == ROWS


@pytest.mark.parametrize("value", [{"a": 1}, [1], 7])
def test_an_address_that_is_no_text_is_an_error(server, tmp_path, value):
    server.routes["/items"] = lambda _: Reply({"items": ROWS, "next": value})
    with pytest.raises(SourceError, match=r"\$\.next is not an address: got"):
        rows_of(reader_of(server, tmp_path, styles.NextUrl()))


def test_a_cursor_may_be_zero(server, tmp_path):
    pages = {"": (ROWS[:3], 0), "0": (ROWS[3:], None)}
    server.routes["/items"] = lambda r: Reply(
        dict(zip(("items", "next_cursor"), pages[r.params.get("cursor", "")], strict=True))
    )
    assert rows_of(reader_of(server, tmp_path, styles.BodyCursor())) == ROWS


@pytest.mark.parametrize(
    "header", ["<" + " " * 50_000 + "x", "<" * 100_000, "<a>" + "; a=b" * 20_000, "<a>" + " " * 99_999]
)
def test_a_header_of_links_is_read_in_linear_time(header):
    begin = time.process_time()
    assert styles.linked(header, "next") is None
    assert time.process_time() - begin < 1


def test_more_pages_without_a_cursor_are_an_error(server, tmp_path):
    server.routes["/items"] = lambda _: Reply({"items": ROWS, "next_cursor": None, "has_more": True})
    with pytest.raises(SourceError, match=r"there are more pages \(\$.has_more is True\), but has no cursor: got None"):
        rows_of(reader_of(server, tmp_path, styles.BodyCursor(more="$.has_more")))
    with pytest.raises(SourceError, match=r"how to get the others is not clear: got \$.has_more: true"):
        rows_of(reader_of(server, tmp_path))


def test_more_rows_than_those_of_the_only_page_are_an_error(server, tmp_path):
    server.routes["/items"] = lambda _: Reply({"items": ROWS, "total": 70})
    with pytest.raises(SourceError, match=r"got \$.total: 70, with 7 rows; pass pages="):
        rows_of(reader_of(server, tmp_path))
    server.routes["/items"] = lambda _: Reply({"items": ROWS, "total": 7})
    assert rows_of(reader_of(server, tmp_path)) == ROWS


def test_a_fetch_of_too_many_pages(server, tmp_path):
    server.routes["/items"] = lambda r: Reply({"items": [{"id": r.params["page"]}]})
    with pytest.raises(SourceError, match=r"the fetch has not ended after 20 pages; increase most_pages="):
        rows_of(reader_of(server, tmp_path, styles.PageNumber(), most_pages=20))


def test_a_next_page_at_another_host(server, tmp_path):
    server.routes["/items"] = lambda _: Reply({"items": ROWS, "next": "http://169.254.169.254/latest/"})
    with pytest.raises(SourceError, match=r"a response refers to '169.254.169.254', which has a private address"):
        rows_of(reader_of(server, tmp_path))
    server.routes["/items"] = lambda _: Reply({"items": ROWS, "next": "ftp://example.com/"})
    with pytest.raises(SourceError, match=r"the next page has no HTTP address: got 'ftp://example.com/'"):
        rows_of(reader_of(server, tmp_path, styles.NextUrl()))
    server.routes["/items"] = lambda _: Reply({"items": ROWS, "next": 5})
    with pytest.raises(SourceError, match=r"\$.next is not an address: got 5"):
        rows_of(reader_of(server, tmp_path, styles.NextUrl()))


@pytest.mark.parametrize("target", ["http://[", "http://[::1", "//[x]/a", "http://a b/", "http://\x00", "/a\x00"])
def test_a_next_page_with_an_invalid_address(server, tmp_path, target):
    server.routes["/items"] = lambda _: Reply({"items": ROWS, "next": target})
    with pytest.raises(SourceError):
        rows_of(reader_of(server, tmp_path, styles.NextUrl(), deadline="1 second"))
    server.received.clear()
    server.routes["/items"] = lambda _: Reply({"items": ROWS})
    assert rows_of(reader_of(server, tmp_path)) == ROWS  # the other host does not count for this one


def test_a_total_that_is_no_number(server, tmp_path):
    server.routes["/items"] = lambda _: Reply({"items": ROWS, "total": "many"})
    with pytest.raises(SourceError, match=r"\$.total is not a number: got 'many'"):
        rows_of(reader_of(server, tmp_path, styles.Offset(total="$.total")))


@pytest.mark.parametrize(
    ("body", "rows", "problem"),
    [
        (b"<html>", None, "it is not clear which part of the response has the rows: got '<html>'"),
        (b'{"items": [1, 2}', None, "a response is not valid JSON: got JSON is malformed"),
        (b'{"items": [1', None, "a response is not valid JSON: got Input data was truncated"),
        (b"", None, "it is not clear"),
        (b"[1] [2]", None, "a response is not valid JSON"),
        (b'{"a": [], "b": []}', None, "it is not clear which part of the response has the rows: got arrays 'a', 'b'"),
        (b'{"items": 5}', "$.items", "the rows are neither an array nor an object: got '5'"),
        (b'{"itens": []}', "$.items", r"the response has no \$.items: got keys 'itens'; did you mean 'itens'\?"),
        (b"5", "$.items", r"the response has no \$.items: got '5'; pass rows="),
        (b"[" * 100_000 + b"]" * 100_000, None, "a response is nested too deeply"),
    ],
)
def test_responses_without_rows(server, tmp_path, body, rows, problem):
    server.routes["/items"] = lambda _: Reply(body)
    with pytest.raises(SourceError, match=problem):
        rows_of(reader_of(server, tmp_path, rows=rows))


@pytest.mark.parametrize(
    ("body", "rows", "expected"),
    [
        ({"a": [1], "items": [{"x": 1}]}, None, [{"x": 1}]),
        ({"errors": [], "b": {"c": [{"x": 1}]}}, "$.b.c", [{"x": 1}]),
        ({"b.c": [{"x": 1}]}, "$['b.c'][*]", [{"x": 1}]),
        ({"b": {"x": 1}}, "b", [{"x": 1}]),
        ({"b": None}, "$.b", []),
        ({"x": 1}, "$", [{"x": 1}]),
    ],
)
def test_where_the_rows_are(server, tmp_path, body, rows, expected):
    server.routes["/items"] = lambda _: Reply(body)
    assert rows_of(reader_of(server, tmp_path, styles.SinglePage(), rows=rows)) == expected


@pytest.mark.parametrize("path", ["$.a[0]", "$..a", "$.a b.", "$.", "$x", "$.a[*].b"])
def test_paths_that_are_no_paths_of_keys(path):
    with pytest.raises(DefinitionError, match="this is not a path of keys"):
        path_of(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(rows=st.lists(JSON, max_size=5), indent=st.sampled_from([None, 1, "\t"]), key=st.text())
def test_rows_keep_their_values(rows, indent, key):
    body = JsonBody(json.dumps({"": {key: rows}, "x": 1}, indent=indent).encode(), Place("here"))
    found = body.rows(("", key))
    assert [json.loads(row) for row in found] == rows
    assert all(b"\n" not in row and b"\r" not in row for row in found)


@given(garbage=st.binary(max_size=60))
def test_garbage_is_an_error_or_has_rows(garbage):
    body = JsonBody(garbage, Place("here"))
    try:
        rows = body.rows(body.rows_path())
    except SourceError:
        return
    assert all(b"\n" not in row for row in rows)


def test_options_that_are_refused():
    with pytest.raises(DefinitionError, match=r"begins with https:// or http://: got 'ftp://example.com'"):
        rest("ftp://example.com")
    with pytest.raises(
        DefinitionError, match=r"must not contain a user and a password: got 'https://\*\*\*@example.com'"
    ) as raised:
        rest("https://ann:s3cret@example.com")
    assert "s3cret" not in str(raised.value)
    with pytest.raises(DefinitionError, match="the address of an API is invalid: got Invalid IPv6 URL"):
        rest("http://[::1")
    with pytest.raises(DefinitionError, match="this is not a style of pagination: got 'page'"):
        rest("https://example.com", pages="page")
    with pytest.raises(DefinitionError, match="since= requires cursor="):
        rest("https://example.com", since="after")
    with pytest.raises(DefinitionError, match="unknown value of repeated=: got 'maybe'"):
        rest("https://example.com", repeated="maybe")
    with pytest.raises(DefinitionError, match=r"allowed_hosts= must be a tuple: got 'a'"):
        rest("https://example.com", allowed_hosts="a")
