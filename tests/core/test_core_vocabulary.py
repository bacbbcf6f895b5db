"""Names of public classes are unique in the whole tree."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pipeline

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipeline", "ml", "serve", "cluster")


def test_names_of_public_classes_are_unique():
    places: dict[str, list[str]] = defaultdict(list)
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_no_package_has_the_name_of_a_public_function():
    """Importing the package would replace the function, for example `from pipeline import replay`."""
    rooms = {path.name for path in (ROOT / "pipeline").iterdir()} | {p.stem for p in (ROOT / "pipeline").glob("*.py")}
    assert rooms & set(pipeline.__all__) == set()
