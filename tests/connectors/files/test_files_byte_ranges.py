from __future__ import annotations

import numpy as np
import pytest

from pipeline.connectors.files.byte_ranges import head_bytes, lines_in, read_range, splits_of
from pipeline.core.splits import SourceObject


def cuts(text: str, target: int, *, head: int = 0, quotes: bool = True):
    data = np.frombuffer(text.encode(), np.uint8)
    splits = splits_of(SourceObject("f", len(data), ""), data, target, head=head, quotes=quotes)
    is_whole = len(splits) == 1
    assert is_whole or sum(split.lines for split in splits) == text.count("\n") + (not text.endswith("\n"))
    assert is_whole or [split.first + split.lines for split in splits[:-1]] == [split.first for split in splits[1:]]
    return [(split.begin, split.end, split.first) for split in splits]


# byte   0   2   4      8
# text   a . b . " . " . c .        (. is a line end)
@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("a\nb\nc\n", 1, [(0, 2, 1), (2, 4, 2), (4, None, 3)]),
        ("a\nb\nc\n", 2, [(0, 2, 1), (2, 4, 2), (4, None, 3)]),
        ("a\nb\nc\n", 3, [(0, 4, 1), (4, None, 3)]),
        ("a\nb\nc\n", 4, [(0, None, 1)]),
        ("a\nb\nc", 1, [(0, 2, 1), (2, 4, 2), (4, None, 3)]),
        ('a\nb\n"\n"\nc\n', 1, [(0, 2, 1), (2, 4, 2), (4, 8, 3), (8, None, 5)]),
        ('a\n"\nb\nc\n', 1, [(0, 2, 1), (2, None, 2)]),
        ("abcdef", 1, [(0, None, 1)]),
    ],
)
def test_split_point_is_the_first_unquoted_line_end_after_the_target(text, target, expected):
    assert cuts(text, target) == expected


def test_quotes_are_ignored_if_not_requested():
    assert cuts('a\n"\nb\nc\n', 1, quotes=False) == [(0, 2, 1), (2, 4, 2), (4, 6, 3), (6, None, 4)]


def test_first_part_contains_the_header_whose_quotes_are_ignored():
    assert cuts('"\n\na\nb\nc\n', 1, head=2) == [(0, 3, 1), (3, 5, 3), (5, 7, 4), (7, None, 5)]


def test_split_points_far_from_each_other_and_from_their_targets():
    text = "x" * 100_000 + "\n" + '"' + "y\n" * 100_000 + '"\n' + "z\n" * 100_000

    # the line of x and the entire quoted field; then parts of the target size
    assert cuts(text, 100_000) == [
        (0, 100_001, 1),
        (100_001, 300_004, 2),
        (300_004, 400_004, 100_003),
        (400_004, None, 150_003),
    ]


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (b"a,b\n", 4),
        (b"\xef\xbb\xbfa,b\r\n", 8),
        (b'"a,""x",b\n', 10),
        (b'a",b\n', 5),
        (b"a,b", None),
        (b'a,"b\n', None),
        (b'a,"b"c\n', None),
        (b"a,\xff\n", None),
        (b"a,\n", 3),
        (b"\n", None),
    ],
)
def test_header_is_one_line_that_names_every_column(head, length):
    assert head_bytes(np.frombuffer(head + b"1,2\n" * (length is not None), np.uint8), ",") == length


@pytest.mark.parametrize(
    ("content", "lines"), [(b"", 0), (b"\n", 1), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"ab\n" * 700_000, 700_000)]
)
def test_line_count_includes_an_unterminated_last_line(content, lines, tmp_path):
    (tmp_path / "f").write_bytes(content)

    assert lines_in(str(tmp_path / "f")) == lines


@pytest.mark.parametrize(("begin", "end"), [(0, None), (5, None), (5, 5), (5, 9), (3, 2_500_000), (2_999_999, None)])
def test_range_contains_exactly_its_bytes(begin, end, tmp_path):
    content = bytes(range(250)) * 12_000
    (tmp_path / "f").write_bytes(content)

    assert b"".join(bytes(some) for some in read_range(str(tmp_path / "f"), begin, end)) == content[begin:end]
