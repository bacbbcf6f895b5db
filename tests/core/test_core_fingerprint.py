"""A function's fingerprint changes only with its computation."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import textwrap

import pytest

from pipeline.core.fingerprint import fingerprint, of_function

BASE = """
    import math
    import re
    from functools import partial

    RATE = 3
    NAMES = {"a": 1, "b": [2, 3]}
    WORD = re.compile("a+")

    class Shape:
        size = 2
        def area(self):
            return self.size * 2

    SHAPE = Shape()

    def helper(x):
        return x + 1

    def outer(factor):
        def made(x):
            return x * factor
        return made

    def logged(function):
        import functools
        @functools.wraps(function)
        def wrapper(x):
            return function(x) + 0
        return wrapper

    made = outer(2)
    twice = partial(helper, 1)
    short = lambda x: x + 1
    pair = [lambda x: x + 1, lambda x: x + 2]

    @logged
    def decorated(x):
        return x

    def f(x, step=1, *, most=9):
        '''What it does.'''
        def inner(y):
            return helper(y) + RATE
        return inner(x) + made(x) + NAMES["a"] + step + len(WORD.pattern) + Shape().area() + SHAPE.size

    def g(x):
        return (lambda y: y + 1)(x)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a function that loads a module from its text, each time as a new module of the same name, like a project."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(text=BASE, *, name="project"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return helper(y) + RATE", "return helper(y) + RATE  # a comment"),
        ("'''What it does.'''", "'''Other words.'''"),
        ("return inner(x) + made(x)", "return (inner(x)\n                + made(x))"),
        ("'''What it does.'''", "'''What it does.'''\n\n\n"),
        ("import math", "import math\n    UNUSED = 7"),
    ],
)
def test_fingerprint_ignores_layout_and_comments(project, old, new):
    assert of_function(project().f) == of_function(project(BASE.replace(old, new)).f)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 3", "RATE = 4"),
        ("[2, 3]", "[2, 4]"),
        ('re.compile("a+")', 're.compile("a*")'),
        ("return x + 1\n", "return x + 2\n"),
        ("made = outer(2)", "made = outer(3)"),
        ("return x * factor", "return x / factor"),
        ("step=1", "step=2"),
        ("most=9", "most=8"),
        ("return self.size * 2", "return self.size * 3"),
        ("size = 2", "size = 3"),
        ("SHAPE = Shape()", "SHAPE = Shape()\n    SHAPE.size = 5"),
        ("inner(x) + made(x)", "inner(x) - made(x)"),
    ],
)
def test_changes_of_the_computation_change_the_fingerprint(project, old, new):
    assert old in BASE
    assert of_function(project().f) != of_function(project(BASE.replace(old, new)).f)


def test_fingerprint_includes_a_nested_lambda(project):
    assert of_function(project().g) != of_function(project(BASE.replace("y + 1)(x)", "y + 2)(x)")).g)


def test_lambdas_of_one_line_differ(project):
    module = project()
    first, second = module.pair
    assert of_function(first) == of_function(module.short)
    assert of_function(first) != of_function(second)


def test_lambdas_that_differ_in_a_name_differ():
    assert of_function(lambda x: x.real) != of_function(lambda x: x.imag)


def test_fingerprint_of_a_partial_includes_its_arguments(project):
    module = project()
    assert of_function(module.twice) == of_function(functools.partial(module.helper, 1))
    assert of_function(module.twice) != of_function(functools.partial(module.helper, 2))


def test_fingerprint_of_a_method_includes_its_class(project):
    first = of_function(project().SHAPE.area)
    assert first == of_function(project().SHAPE.area)
    assert first != of_function(project(BASE.replace("* 2", "* 3")).SHAPE.area)
    assert first != of_function(project(BASE.replace("SHAPE = Shape()", "SHAPE = Shape(); SHAPE.size = 5")).SHAPE.area)


def test_fingerprint_includes_a_wrapping_decorator(project):
    first = of_function(project().decorated)
    assert first != of_function(project(BASE.replace("function(x) + 0", "function(x) + 1")).decorated)


def test_fingerprint_includes_a_helper_imported_by_name_or_module(project):
    by_name, by_module = (
        "from rates import rate\ndef f(x): return rate(x)",
        "import rates\ndef f(x): return rates.rate(x)",
    )
    for text in (by_name, by_module):
        project("def rate(x): return x\n", name="rates")
        first = of_function(project(text).f)
        project("def rate(x): return x * 2\n", name="rates")
        assert first != of_function(project(text).f)
        project("# a word\ndef rate(x):\n    return x\n", name="rates")
        assert first == of_function(project(text).f)


def test_fingerprint_of_mutually_recursive_functions(project):
    text = "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)\n"
    assert of_function(project(text).even) == of_function(project(text).even)
    assert of_function(project(text).even) != of_function(project(text.replace("n != 0", "n > 0")).even)


def test_fingerprint_includes_only_the_name_of_installed_functions():
    assert of_function(len) == of_function(len) != of_function(min)
    assert of_function(textwrap.dedent) != of_function(textwrap.indent)


def test_fingerprint_is_the_same_in_another_process(project, tmp_path):
    module = project()
    here = [of_function(f) for f in (module.f, module.g, module.short, module.decorated, module.SHAPE.area)]
    program = (
        "import sys; sys.path.insert(0, '.'); import project as p\n"
        "from pipeline.core.fingerprint import of_function\n"
        "print(*[of_function(f) for f in (p.f, p.g, p.short, p.decorated, p.SHAPE.area)])"
    )
    there = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert there.stdout.split() == here


def test_fingerprint_of_a_function_without_source_uses_its_bytecode():
    def compiled(text):
        space = {}
        exec(text, space)  # noqa: S102 - as at a prompt
        return space["f"]

    assert of_function(compiled("def f(x): return x.a")) == of_function(compiled("def f(x): return x.a"))
    assert of_function(compiled("def f(x): return x.a")) != of_function(compiled("def f(x): return x.b"))


def test_fingerprint_separates_its_parts():
    assert fingerprint("a", "bc") != fingerprint("ab", "c")
    assert len(fingerprint()) == 16


def test_threads_may_compute_fingerprints_at_once(tmp_path):
    """`ast.parse` of Python 3.11 may fail if two threads call it, if the garbage collector calls Python code."""
    methods = "".join(f"    def m{i}(self, x):\n        return [x + {i}, (x, {{x: {i}}})]\n" for i in range(100))
    (tmp_path / "p.py").write_text(f"class Wide:\n{methods}\ndef f(x):\n    return Wide().m1(x)\n")
    program = (
        "import gc, sys, p\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from pipeline.core.fingerprint import of_function\n"
        "sys.setswitchinterval(1e-5)\n"
        "gc.callbacks.append(lambda *event: None)\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    print(len(set(pool.map(lambda _: of_function(p.f), range(8)))))"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (process.stdout, process.stderr) == ("1\n", "")
