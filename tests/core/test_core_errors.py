"""The parts of error messages, which survive pickling."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core import errors
from pipeline.core.errors import HeadwaterError, Place, did_you_mean, few
from pipeline.core.schema import Schema, compare

EVERY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HeadwaterError)]


def test_the_docstring_lists_all_errors():
    drawn = [word for word in errors.__doc__.split() if word.endswith("Error")]
    assert sorted(drawn) == sorted(kind.__name__ for kind in EVERY)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])  # noqa: S301
@pytest.mark.parametrize("parts", [{}, {"got": "3", "do": "mend it", "place": Place("flights.py", 31)}])
def test_every_error_can_be_copied_and_pickled(kind, again, parts):
    error = kind("the problem", **parts)
    restored = again(error)
    assert type(restored) is kind
    assert str(restored) == str(error)
    assert (restored.problem, restored.got, restored.do, restored.place) == (
        error.problem,
        error.got,
        error.do,
        error.place,
    )


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "a"),
        ({"got": "b"}, "a: got b"),
        ({"do": "c"}, "a; c"),
        ({"place": Place("f.py")}, "a (f.py)"),
        ({"got": "b", "do": "c", "place": Place("f.py", 3)}, "a: got b; c (f.py:3)"),
        ({"got": "", "do": ""}, "a: got ; "),
    ],
)
def test_message_combines_all_parts(parts, text):
    assert str(HeadwaterError("a", **parts)) == text


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("flight", ["flights", "weather"], "did you mean 'flights'?"),
        ("zzz", ["flights", "weather", "flights"], "known: 'flights', 'weather'"),
        ("zzz", [], "none is defined yet"),
        (
            "zzz",
            [f"t{i:02}" for i in range(20)],
            "known: " + ", ".join(f"'t{i:02}'" for i in range(12)) + " and 8 more",
        ),
    ],
)
def test_similar_name_is_suggested(name, known, text):
    assert did_you_mean(name, known) == text


def test_a_message_can_be_written_in_any_encoding():
    error = HeadwaterError("no file", got="\ud800", do="rename it", place=Place("caf\udce9.csv"))

    assert str(error).encode() == b"no file: got \\ud800; rename it (caf\\udce9.csv)"


def test_list_of_names_is_short():
    assert few(["a", "b"]) == "a, b"
    assert few([str(n) for n in range(3000)]) == "0, 1, 2, 3, 4 and 2,995 more"


def test_change_of_many_columns_is_short_and_shows_case():
    before = Schema.of({"a": "", "gone": ""})
    wide = Schema.of(dict.fromkeys(["a", *(f"new{n}" for n in range(3000))], ""))

    assert str(compare(before, Schema.of({"A": "", "gone": ""}))) == "column 'a' is now 'A', which differs only in case"
    assert str(compare(before, wide)).endswith("new column 'new4' and 2,996 more")


SENTENCE = re.compile(
    r"^(it|its|there|the|\{\}|nothing|some|all|no)(?!\w)(?:(?!\b(?:that|whose|which|who)\b)[^,;:()])*?\b(is|are|was|were|has|have|had|does|do|did|cannot|may|could)\b(?! as\b)"
)
"""A text that begins with a subject and has a verb, other than in a relative clause."""
TOPS = ("pipeline", "ml", "serve", "cluster")


def texts_of(node: ast.expr) -> Iterator[str]:
    """Yield the texts that an expression may be, with `{}` for each value in them."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from (*texts_of(node.body), *texts_of(node.orelse))
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from texts_of(value)


@pytest.mark.parametrize("text", ["it was removed", "its type is {}", "{} is true", "the bucket does not exist"])
def test_a_sentence_is_recognized(text):
    assert SENTENCE.match(text)


@pytest.mark.parametrize("top", TOPS)
def test_what_was_got_is_no_sentence(top):
    """A message reads "problem: got …", which a sentence must not follow; a cause belongs to the problem."""
    sentences = [
        f"{path.name}:{call.lineno}: {text}"
        for path in (Path(__file__).parents[2] / top).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "got"
        for text in texts_of(keyword.value)
        if SENTENCE.match(text)
    ]
    assert sentences == []
