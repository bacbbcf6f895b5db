from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.connectors.files.record_index import lines_of, records
from tests.rigs.proofs import examples


def lines(tmp_path, content: bytes):
    path = tmp_path / "piece"
    path.write_bytes(content)
    return lines_of(str(path))


def starts(index, delimiter=","):
    """The first lines of all records, determined from the quotes."""
    return records(index, delimiter, -1, blank_counts=False).tolist()


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"a\nb\n", [b"a\n", b"b\n"]),
        (b"a\nb", [b"a\n", b"b"]),
        (b"a\r\n\r\nb", [b"a\r\n", b"\r\n", b"b"]),
        (b"\xef\xbb\xbfa\nb", [b"a\n", b"b"]),
        (b"\n", [b"\n"]),
    ],
)
def test_lines_keep_line_ends_and_lose_the_byte_order_mark(content, texts, tmp_path):
    assert lines(tmp_path, content).texts().to_pylist() == texts


def test_line_of_an_offset(tmp_path):
    index = lines(tmp_path, b"ab\ncd\nef")

    assert index.numbers_at(np.array([0, 2, 3, 5, 6, 7])).tolist() == [1, 1, 2, 2, 3, 3]


# line   1 2 3       4 5    6 7      8
# text   h   a,"x    y"  ,  b "q""   ""r"
# record h   a            , b,"q ...
@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("h,i\n1,2\n\n3,4\n", [1, 2, 4]),
        ('h,i\n1,"x\ny"\n3,4\n', [1, 2, 4]),
        ('h,i\n1,"x\n\n\ny"\n3,4\n', [1, 2, 6]),
        ('h,i\n"a""\n""b","c\nd"\n3,4\n', [1, 2, 5]),
        ('h,i\n1,"x\ny","z\nw"\n3,4\n', [1, 2, 5]),
        ('h,i\n1,5" pipe\n3,4\n', [1, 2, 3]),
        ('h,i\n1,"a"b\n3,4\n', [1, 2, 3]),
        ('h,i\n1,"never closed\n3,4\n5,6\n', [1, 2]),
        ('h,i\r\n1,"x\r\ny"\r\n\r\n3,4\r\n', [1, 2, 5]),
    ],
)
def test_quotes_determine_where_records_begin(text, begins, tmp_path):
    assert starts(lines(tmp_path, text.encode())) == begins


def test_quotes_are_not_parsed_if_every_line_is_a_record(tmp_path):
    index = lines(tmp_path, b'h\n"open\n"shut\n')

    assert records(index, ",", 3, blank_counts=False).tolist() == [1, 2, 3]


def test_blank_lines_count_in_a_single_column(tmp_path):
    index = lines(tmp_path, b"h\n\n1\n")

    assert records(index, ",", 3, blank_counts=True).tolist() == [1, 2, 3]


CELL = st.text(alphabet='a",\n;é', max_size=6)


@settings(max_examples=examples(22, 200), deadline=None)
@given(
    rows=st.lists(st.lists(CELL, min_size=2, max_size=3), min_size=1, max_size=6),
    end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from([",", ";", "|"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_record_index_equals_the_csv_module(rows, end, delimiter, quoting, tmp_path_factory):
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(rows)
    text = stream.getvalue()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    expected, line = [], 1
    for _ in reader:
        expected.append(line)
        line = reader.line_num + 1

    assert starts(lines(tmp_path_factory.mktemp("lines"), text.encode()), delimiter) == expected
