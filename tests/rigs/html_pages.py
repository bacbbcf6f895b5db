"""Reads a page, and checks that its tags are closed in order, that it loads nothing, and that it is accessible."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input"}


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps the text, the tags and the attributes that load something."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words, self.loads, self.ids = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.loads += [value for name, value in attrs if name in {"src", "href", "action", "data", "srcset"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(text):
    """Return what a page consists of; it must be well formed."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    reader.text = " ".join(" ".join(reader.words).split())
    return reader


def require_self_contained(text, links=frozenset()):
    """Check that a page runs no script and loads nothing; it may link to other pages."""
    page = read(text)
    assert {load for load in page.loads if not load.startswith(("#", "data:"))} <= links
    assert set(re.findall(r"https?://[^\"'\s<)]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert not {"script", "img"} & set(page.tags)
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text


def require_accessible(text):
    """Check what a screen reader needs: a language, one title, and names of pictures and of the heads of tables."""
    page = read(text)
    assert '<html lang="en">' in text
    assert len(page.ids) == len(set(page.ids))
    assert set(re.findall(r'aria-labelledby="(.*?)"', text)) <= set(page.ids)
    assert {load[1:] for load in page.loads if load.startswith("#")} <= set(page.ids)
    assert all(
        ('role="img"' in svg and "aria-label" in svg) or "aria-hidden" in svg for svg in re.findall("<svg[^>]*>", text)
    )
    assert page.tags.count("h1") == 1
    assert len(re.findall("<th(?![^>]*scope=)[ >]", text)) == 0
