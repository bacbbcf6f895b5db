"""The units of systemd on the page of scheduling are accepted by systemd, and start commands that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.cli.commands import COMMANDS
from tests.rigs.command import BIN

PAGE = (Path(__file__).parents[2] / "docs" / "scheduling.md").read_text(encoding="utf-8")
UNITS = dict(re.findall(r"```ini\n# /etc/systemd/system/(\S+)\n(.*?)```", PAGE, re.DOTALL))
LINES = re.findall(r"\.venv/bin/headwater (.*?)(?: >> .*)?$", PAGE, re.MULTILINE)


def test_commands_exist():
    assert len(LINES) == 4
    assert "lake maintain --json" in LINES
    for line in LINES:
        words = [word for word in shlex.split(line) if not word.startswith("-") and word != "json"]
        assert words[0] in COMMANDS


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", UNITS)
def test_units_are_valid(name, tmp_path):
    for each, text in UNITS.items():
        (tmp_path / each).write_text(text.replace("/srv/shop/.venv/bin", str(BIN)).replace("/srv/shop", str(tmp_path)))

    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    of_page = [line for line in checked.stderr.splitlines() if "shop" in line]
    assert of_page == [], checked.stderr
    assert checked.returncode == 0, checked.stderr
