"""Every example of the documentation runs, and prints the output on the page.

Blocks of a page share a folder and Python's names, and run in order. A Python block that begins with `# file: NAME` is written there,
others are executed. In a console block `$` begins a command; the lines below it must be in its output, in order, with
`...` for any text; `!` before a line means that the command fails with that message. A block after a comment with the reason why
it is not run is skipped.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.core.cluster_settings import ClusterSettings
from pipeline.core.serve_settings import ServeSettings
from pipeline.core.settings import FILE, Settings
from pipeline.core.settings import load as load_settings
from pipeline.project import load
from tests.rigs.command import CommandServer, ConsoleScript, environment

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LONG = {"datasets.md", "discovery.md", "environments.md", "models.md", "notebooks.md"}
"""Pages whose examples take long: they start Ray, and train models."""
SHELL = re.compile(r"[|&;<>$`]")
"""Characters that require a shell."""
BLOCK = re.compile(r"(?P<note><!--[^>]*-->\n)?```(?P<kind>python|console|toml)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    content = page.read_text(encoding="utf-8")
    return [
        Block(match["kind"], match["text"], content[: match.start()].count("\n") + 1)
        for match in BLOCK.finditer(content)
        if not match["note"]
    ]


PAGES_TO_RUN = [
    pytest.param(page, id=str(page.relative_to(ROOT)), marks=[pytest.mark.proof] if page.name in LONG else [])
    for page in PAGES
    if blocks_of(page)
]


@pytest.mark.parametrize("page", PAGES_TO_RUN)
def test_examples_run(page, tmp_path, headwater_command):
    shell = Shell(tmp_path, headwater_command)
    projects: set[str] = set()
    names: dict[str, object] = {}
    for block in blocks_of(page):
        where = f"{page.name}:{block.line}"
        named = re.match(r"# file: (\S+)\n", block.text)
        if named:
            path = tmp_path / named[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            projects |= {Path(named[1]).parts[0]} if block.kind == "python" else set()
        elif block.kind == "python":
            exec(compile(block.text, where, "exec"), names)  # noqa: S102 - a page of this project
        elif block.kind == "console":
            for command, expected in commands(block.text):
                shell.run(command, expected, where)
                projects.discard(command.removeprefix("python "))  # a script
    for name in projects:
        (tmp_path / "headwater.toml").write_text(f'[project]\ndefinitions = "{name}"\n')
        if (tmp_path / name).is_dir():
            (tmp_path / name / "__init__.py").touch()
        assert load(tmp_path).graph.names


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_have_a_target(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def commands(text: str) -> list[tuple[str, list[str]]]:
    runs: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            runs.append((line[2:], []))
        elif line.strip():
            runs[-1][1].append(line)
    return runs


class Shell:
    """Runs commands one after the other, in a folder that `cd` changes."""

    def __init__(self, folder: Path, headwater: CommandServer | ConsoleScript) -> None:
        self.folder = folder
        self.headwater = headwater
        self.environ = environment({"COLUMNS": "140"})

    def run(self, command: str, expected: list[str], where: str) -> None:
        if command.startswith("cd "):
            self.folder = self.folder / shlex.split(command)[1]
            return
        process = self._process(command)
        printed = process.stdout + process.stderr
        fails = any(line.startswith("! ") for line in expected)
        assert (process.returncode != 0) == fails, f"{where}: {command}\n{printed}"
        pattern_text = "\n".join(line.removeprefix("! ") for line in expected)
        pattern = r"[^\x00]*?".join(re.escape(flat(part)) for part in pattern_text.split("..."))
        assert re.search(pattern, flat(printed)), f"{where}: {command}\n{printed}\nhas not\n{pattern_text}"

    def _process(self, command: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(command)
        if words[0] == "headwater" and not SHELL.search(command):
            return self.headwater.run(*words[1:], cwd=self.folder, env=self.environ, timeout=240)
        bash = ["bash", "-c", command]
        return subprocess.run(bash, cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False)


def flat(text: str) -> str:
    """Return a text with runs of spaces and of lines replaced by one: the width of columns depends on their cells."""
    return re.sub(r"[ \t]+", " ", re.sub(r"[ \t]*\n\s*\n|[ \t]+\n", "\n", text)).strip("\n ")


def test_limits_of_the_access_page_are_settings(tmp_path):
    page = (ROOT / "docs" / "access.md").read_text(encoding="utf-8")
    [text] = [each for each in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "redis_url" in each]
    (tmp_path / FILE).write_text("[project]\ndefinitions = 'x.py'\n" + text)
    serve = load_settings(tmp_path / FILE, environ={"REDIS_PASSWORD": "p"}, env="prod").serve
    assert serve.redis_url == "redis://:p@cache:6379/0"
    assert serve.routes["query"].cost == 5
    assert list(serve.quotas.items()) == [("partner-*", 1_000_000), ("*", 50_000)]


def test_settings_page_describes_every_key(tmp_path):
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    keys = {field.name for field in fields(Settings)} - {"name", "root", "definitions", "env", "ray_address"}
    keys |= {field.name for each in (ClusterSettings, ServeSettings) for field in fields(each)}
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == keys

    (tmp_path / FILE).write_text(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1])
    settings = load_settings(tmp_path / FILE, environ={"CATALOG_PASSWORD": "p"}, env="prod")
    assert (settings.lake, settings.execution, settings.storage) == (
        "s3://acme-lake/shop",
        "ray",
        {"region": "eu-central-1"},
    )
    assert load_settings(tmp_path / FILE, environ={}).memory_bytes == 4_000_000_000

    (tmp_path / FILE).write_text(
        "[project]\ndefinitions = 'x.py'\n" + re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[1]
    )
    asked = load_settings(tmp_path / FILE, environ={}, env="prod").cluster
    assert (asked.deadline, asked.max_cpus, asked.cost_per_hour) == (timedelta(hours=4), 64, {"worker": 0.4})
