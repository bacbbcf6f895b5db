"""Limits of statements: time, memory and disk are limited by default, and errors name the limit to raise."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from pipeline.core import scratch
from pipeline.core.errors import RequestError, SettingsError, StorageError
from pipeline.core.settings import load as load_settings
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import SPILL_SHARE, Limits
from pipeline.project import Workspace, load
from pipeline.runner import Runner, RunOptions
from tests.rigs.command import BIN

BIG = "select a.range * b.range as n, md5((a.range * b.range)::varchar) as h from range(3000) a, range(3000) b"
DEFINITIONS = """\
from pipeline import files, source, sql

raw = source(files("raw.csv"), schema={"k": "bigint"})
big = sql("select k, h from raw, (select md5((x.range * y.range)::varchar) as h from range(3000) x, range(3000) y) order by h")
"""


def project(folder, **keys):
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    (folder / "headwater.toml").write_text(f'[project]\nname = "p"\ndefinitions = "p.py"\n[env.dev]\n{lines}')
    (folder / "p.py").write_text(DEFINITIONS)
    (folder / "raw.csv").write_text("k\n1\n2\n")
    return folder


def run_project(folder, **keys):
    workspace = Workspace(load(project(folder, **keys)))
    Runner(workspace.project, RunOptions(select=("raw",))).run()
    return workspace


def test_query_timeout_names_the_limit(tmp_path):
    workspace = run_project(tmp_path, memory_bytes=1 << 28)
    endless = "select count(*) from raw, range(100000000) a, range(100000000) b where a.range + b.range < 0"
    with pytest.raises(RequestError, match=r"exceeds the timeout of 0\.5 s: select count.* raise query_seconds"):
        workspace.query(endless, seconds=0.5)
    assert workspace.query("select sum(k) as k from raw").to_pylist() == [{"k": 3}]


def test_query_spill_limit_names_the_setting(tmp_path):
    workspace = run_project(tmp_path, memory_bytes=1 << 28, spill_bytes=1 << 20)
    sort = f"select max(h || r) as m from (select h, row_number() over (order by h) as r from ({BIG}), raw)"
    with pytest.raises(
        RequestError, match=r"exceeds the limit for spilling to disk: select max.*raise spill_bytes.*tmp"
    ):
        workspace.query(sort)


def test_result_larger_than_memory_is_rejected(tmp_path):
    workspace = run_project(tmp_path, memory_bytes=200 << 20)
    with pytest.raises(RequestError, match=r"the result does not fit in memory: select .* got more than 0\.2 GB"):
        workspace.query(f"select n, h from ({BIG}), raw")


def test_table_spill_limit_names_the_table_and_the_setting(tmp_path):
    runner = Runner(load(project(tmp_path, memory_bytes=1 << 28, spill_bytes=1 << 20)))
    with pytest.raises(StorageError, match=r"table 'big' exceeds the limit for spilling to disk.*raise spill_bytes"):
        runner.run()


def test_spill_is_limited_to_a_share_of_the_free_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "_place", scratch._ScratchFolder(tmp_path))  # noqa: SLF001 - simulates that no project is loaded
    with connect(Limits(threads=2)) as con:
        (text,) = con.execute("select current_setting('max_temp_directory_size')").fetchone()
    value, unit = text.split()
    limit_bytes = float(value) * 1024 ** (["bytes", "KiB", "MiB", "GiB", "TiB"].index(unit))
    disk = os.statvfs(tmp_path)
    assert limit_bytes == pytest.approx(SPILL_SHARE * disk.f_bavail * disk.f_frsize, rel=0.2)


@pytest.mark.parametrize("key", ["spill_bytes", "query_seconds"])
def test_limits_must_be_positive_numbers(tmp_path, key):
    project(tmp_path, **{key: 0})
    with pytest.raises(SettingsError, match=f"'{key}' must be positive"):
        load_settings(tmp_path / "headwater.toml")


@pytest.mark.proof
def test_temporary_files_of_a_killed_run_are_removed_by_the_next_command(tmp_path):
    folder = project(tmp_path)
    (folder / "p.py").write_text(
        DEFINITIONS.partition("big =")[0]
        + "import time\nimport pyarrow as pa\nfrom pipeline import table\n\n\n"
        + "@table()\ndef slow(raw: pa.Table) -> pa.Table:\n    time.sleep(60)\n    return raw\n"
    )
    system = tmp_path / "system"
    system.mkdir()
    environ = {name: value for name, value in os.environ.items() if name != scratch.VARIABLE} | {"TMPDIR": str(system)}
    process = subprocess.Popen([str(BIN / "headwater"), "run"], cwd=folder, env=environ, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    tmp = folder / ".headwater" / "tmp"
    while not (leftovers := list(tmp.glob("run-*/*"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert leftovers
    time.sleep(1.5)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    assert list(tmp.iterdir())

    doctor = subprocess.run(
        [str(BIN / "headwater"), "doctor"], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )

    assert "of 1 processes that were killed, now removed" in doctor.stdout
    assert list(tmp.iterdir()) == []
    assert not list(system.glob("headwater*"))
