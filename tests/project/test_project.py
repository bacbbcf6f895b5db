"""Loading a project: files, packages, helper modules, and errors."""

from __future__ import annotations

import pytest

from pipeline.core.errors import DefinitionError, SettingsError
from pipeline.project import load
from pipeline.runner import Runner


def write(folder, **files):
    (folder / "headwater.toml").write_text('[project]\ndefinitions = "work.py"\n')
    (folder / "numbers.csv").write_text("x\n1\n2\n")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


SOURCE = """\
from pathlib import Path
from pipeline import files, source, sql
numbers = source(files(Path(__file__).parent / "numbers.csv"))
"""


def test_helper_module_is_reloaded_and_part_of_the_fingerprint(tmp_path):
    table = "import pyarrow as pa\nfrom pipeline import table\nfrom sums import plus\n\n@table()\ndef more(numbers: pa.Table) -> pa.Table:\n    return plus(numbers)\n"
    helper = "import pyarrow as pa\nimport pyarrow.compute as pc\n\ndef plus(t):\n    return pa.table({{'y': pc.add(t['x'], {n})}})\n"
    folder = write(tmp_path, work=SOURCE + table, sums=helper.format(n=1))
    Runner(load(folder)).run()
    (folder / "sums.py").write_text(helper.format(n=10))
    steps = {step.name: step for step in Runner(load(folder)).run().steps}
    assert (steps["numbers"].decision, steps["more"].decision) == ("skip", "rebuild")


def test_a_package_of_definitions(tmp_path):
    folder = write(tmp_path)
    (folder / "headwater.toml").write_text('[project]\ndefinitions = "shapes"\n')
    (folder / "shapes").mkdir()
    (folder / "shapes" / "__init__.py").write_text("")
    (folder / "shapes" / "bronze.py").write_text(SOURCE.replace(".parent", ".parent.parent"))
    (folder / "shapes" / "gold.py").write_text(
        'from pipeline import mart\nfrom shapes.bronze import numbers as again\ntotal = mart("select sum(x) as x from numbers")\n'
    )
    assert load(folder).graph.names == ("numbers", "total")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = (", r"invalid Python syntax: .*work.py:\d"),
        ("import nowhere", r"cannot be imported: ModuleNotFoundError: got No module named 'nowhere' \(.*work.py:1\)"),
        ("\n\n1 / 0", r"ZeroDivisionError: got division by zero \(.*work.py:3\)"),
        ("", "the project has no definitions"),
        (SOURCE + "a = sql('select x from b')\nb = sql('select x from a')\n", r"form a cycle: a -> b -> a"),
        (SOURCE + "a = sql('select x from numbrs')\n", r"did you mean 'numbers'\? \(.*work.py:4\)"),
        (SOURCE + "a = sql('select from where')\n", r"invalid SQL|one SELECT|reads no table"),
        (
            SOURCE + "Headwater_Loads = sql('select x from numbers', layer='gold')\n",
            r"a gold table cannot be named 'Headwater_Loads'.*; rename it \(.*work.py:4\)",
        ),
    ],
)
def test_invalid_definitions_are_reported_with_their_place(tmp_path, code, message):
    with pytest.raises(DefinitionError, match=message):
        load(write(tmp_path, work=code))


def test_missing_definitions(tmp_path):
    with pytest.raises(SettingsError, match=r"the definitions do not exist: got .*work.py; check `definitions`"):
        load(write(tmp_path))


@pytest.mark.parametrize("name", ["pipeline.py", "serve.py", "json.py", "ml"])
def test_module_that_shadows_headwater_or_python_is_rejected(tmp_path, name):
    (tmp_path / "headwater.toml").write_text(f'[project]\nname = "p"\ndefinitions = "{name}"\n')
    file = tmp_path / name if name.endswith(".py") else tmp_path / name / "__init__.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("from pipeline import sql\n")

    with pytest.raises(SettingsError, match=rf"cannot have a module named '{file.stem if name != 'ml' else 'ml'}'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            "schema={'id': 'bigintt'}",
            "column 'id' has an unknown type: got BIGINTT; did you mean 'BIGINT'",
        ),
        ("schema={'id': 'decimal(50,2)'}", "column 'id' has an unknown type: got DECIMAL"),
        ("schema={'id': 'null'}", "column 'id' has an unknown type: got NULL; known: 'BIGINT', 'BIGNUM'"),
        ("schema={'_Source': 'varchar'}", "the column name '_Source' is reserved for the origin of a row; remove it"),
        ("schema={'id': 'bigint'}, stored='no'", "stored= must be True or False: got 'no'"),
    ],
)
def test_options_of_a_source_are_checked_when_the_project_is_loaded(tmp_path, options, error):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "p.py").write_text(f"from pipeline import files, source\nraw = source(files('*.csv'), {options})\n")

    with pytest.raises(DefinitionError, match=error):
        load(tmp_path)
