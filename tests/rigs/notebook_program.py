"""Runs the code cells of a notebook in this process, in order, and shows the value of the last expression of each as a notebook does.

    python notebook_program.py FILE

Prints the text of each value, after checking that its HTML is well formed. It needs no Jupyter.
"""

from __future__ import annotations

import ast
import json
import sys
from html.parser import HTMLParser
from pathlib import Path

VOID = {"br", "hr", "img", "input", "meta", "link"}


class Balanced(HTMLParser):
    """Raises an error for tags that are not closed in order, and for scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        if tag == "script":
            raise ValueError("a script")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise ValueError(f"</{tag}> closes nothing")


def check_html(text: str) -> None:
    """Raise `ValueError` unless HTML is well formed and has no script."""
    parser = Balanced()
    parser.feed(text)
    parser.close()
    if parser.open:
        raise ValueError(f"<{parser.open[-1]}> is not closed")


def show(value: object) -> None:
    """Show a value as a notebook does: its HTML, and as text."""
    if value is None:
        return
    as_html = getattr(value, "_repr_html_", None)
    if as_html is not None and type(value).__module__.startswith("ml."):
        check_html(as_html())
    elif as_html is not None:
        as_html()
    print(repr(value), flush=True)  # noqa: T201 - the output of a cell


def run(path: Path) -> None:
    """Run all code cells of a notebook."""
    names: dict[str, object] = {"__name__": "__main__"}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        tree = ast.parse("".join(cell["source"]), cell["id"])
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, cell["id"], "exec"), names)  # noqa: S102 - a notebook of this project
        if isinstance(last, ast.Expr):
            show(eval(compile(ast.Expression(last.value), cell["id"], "eval"), names))  # noqa: S307 - likewise


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))  # as in a notebook
    run(Path(sys.argv[1]))
