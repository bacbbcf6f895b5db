"""Reads a page, and checks that its tags are closed in order."""

from __future__ import annotations

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
