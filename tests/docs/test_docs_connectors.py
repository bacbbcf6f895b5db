"""The index of the connectors lists each of them, and each has a page."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import pipeline
from pipeline.connectors.built_in import BUILT_IN

PAGES = Path(__file__).parents[2] / "docs" / "connectors"


def test_every_connector_has_a_page_that_the_index_links_to():
    index = (PAGES / "README.md").read_text()
    pages = {connector.page for connector in BUILT_IN if connector.page}
    assert [page for page in sorted(pages) if not (PAGES / page).is_file() or f"({page})" not in index] == []
    assert {path.name for path in PAGES.glob("*.md")} - {"README.md"} <= pages
    assert [connector.name for connector in BUILT_IN if not connector.page] == ["generate", "replay"]


def test_pages_of_databases_link_to_that_of_deleted_rows():
    functions = {connector: getattr(pipeline, connector.name) for connector in BUILT_IN}
    finds = [each for each, function in functions.items() if "deleted_when" in inspect.signature(function).parameters]
    assert {"sqlite", "postgres", "mysql", "adbc", "mongodb"} <= {connector.name for connector in finds}
    assert [each.name for each in finds if "(../deletes.md)" not in (PAGES / each.page).read_text()] == []


def test_every_page_says_what_it_delivers_and_what_it_was_tested_against():
    texts = {page.name: page.read_text() for page in PAGES.glob("*.md") if page.name != "README.md"}
    assert [name for name, text in texts.items() if "elivery" not in text] == []
    assert [name for name, text in texts.items() if "ested against" not in text] == []


@pytest.mark.parametrize("connector", [each for each in BUILT_IN if each.page], ids=lambda each: each.name)
def test_the_page_has_every_option(connector):
    """A page may say that the other options are those of another page."""
    page = (PAGES / connector.page).read_text()
    others = [line for line in page.splitlines() if "ther options" in line or "| as for" in line]
    linked = {link for line in others for link in re.findall(r"\]\(([\w.-]+\.md)(?:#[^)]*)?\)", line)}
    texts = [page, *((PAGES / link).read_text() for link in linked)]

    parameters = inspect.signature(getattr(pipeline, connector.name)).parameters

    named = {name for text in texts for name in re.findall(r"\w+", text)}
    assert parameters.keys() <= named
