"""`headwater init`."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from cluster.cli.console import out
from pipeline.core.errors import RequestError, StorageError

_TEMPLATES = {
    "headwater.toml": "headwater.toml",
    "gitignore": ".gitignore",
    "definitions.py.tmpl": "$module.py",
    "orders.csv": "data/orders.csv",
    "test_definitions.py.tmpl": "test_$module.py",
}


def init(name: Annotated[str, typer.Argument(help="Name of the project and of the folder to create.")]) -> None:
    """Create a small project that runs: a CSV file, a table, a mart and a test."""
    module = re.sub(r"\W+", "_", Path(name).name).lower()
    if (
        not re.fullmatch(r"[\w-]+", Path(name).name)
        or not module.isidentifier()
        or keyword.iskeyword(module)
        or module in {"pipeline", "ml", "serve", "cluster"}
    ):
        raise RequestError(f"{name!r} is not a valid project name", do="choose a name that Python can import")
    folder = Path(name)
    if folder.exists() and any(folder.iterdir()):
        raise RequestError(f"the folder {name!r} is not empty", do="choose another name")
    names = {"name": folder.name, "module": module}
    for template, target in _TEMPLATES.items():
        path = folder / Template(target).substitute(names)
        content = files("cluster.cli").joinpath("templates", template).read_text(encoding="utf-8")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(content).safe_substitute(names), encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {path}", got=error.strerror) from error
    out.print(f"created [bold]{folder}[/]; next:\n\n    cd {folder}\n    headwater run\n")
