"""The page of options has every option of every definition, with its default, and no other."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import pipeline
from pipeline.core.merge_options import MergeOptions

PAGE = (Path(__file__).parents[2] / "docs" / "options.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SHARED = "Options that tables share"
POSITIONAL = {"reader", "text", "function", "table", "steps", "merging"}
"""Arguments that are not options."""
FUNCTIONS = {name.strip("`@"): text for name, text in SECTIONS.items() if name.startswith("`")}


def rows(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `(\w+)=` \| (.*?) \|", text, re.MULTILINE))


def shared_by(text: str) -> set[str]:
    named = re.search(r"Shared: (.*?)[.;]", text)
    return set() if named is None else set(re.findall(r"`(\w+)`", named[1]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_options_are_those_of_the_function(name):
    text = FUNCTIONS[name]
    parameters = inspect.signature(getattr(pipeline, name)).parameters
    options = {each: parameter for each, parameter in parameters.items() if each not in POSITIONAL}

    own, shared = rows(text), shared_by(text)

    assert not own.keys() & shared
    assert own.keys() | shared == options.keys()
    assert shared <= rows(SECTIONS[SHARED]).keys()
    for option, shown in own.items():
        default = options[option].default
        assert (shown == "required") == (default is inspect.Parameter.empty), option
        if isinstance(default, str | bool | int) and default != "":
            words = str(default) if isinstance(default, int) and not isinstance(default, bool) else f"`{default!r}`"
            assert shown == words.replace("'", '"'), option
    assert ("merging" in parameters) == ("AUTO CDC" in text)


def test_shared_options_are_used_and_have_their_defaults():
    shared = rows(SECTIONS[SHARED])

    assert shared.keys() == set().union(*map(shared_by, FUNCTIONS.values()))
    assert shared["layer"] == '`"silver"`'


def test_the_page_of_auto_cdc_has_all_of_its_options():
    page = (Path(__file__).parents[2] / "docs" / "auto-cdc.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(\w+)=(?:True)?`", page.partition("## Options")[2].partition("\n## ")[0]))

    assert listed == {"key", *MergeOptions.__annotations__}
