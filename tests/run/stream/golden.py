"""Writes the golden folder anew: python tests/run/stream/golden.py. Only for a new format, beside the old one."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import conftest

from pipeline.run.stream.plan import Planner
from pipeline.run.stream.stream import Stream

HERE = Path(__file__).parent / "golden"
COUNT = 300


def main() -> None:
    """Run the plant's streams part of the way and keep their tables."""
    with tempfile.TemporaryDirectory() as place:
        folder = conftest.write(Path(place) / "plant", count=COUNT)
        conftest.start(folder, "readings", until_caught_up=True).run()
        workspace = conftest.opened(folder)
        stream = Stream(workspace, Planner(workspace).plan("by_minute"), conftest.FAST)
        while not stream.turn():
            pass
        stream.save()
        stream.close()
        shutil.rmtree(HERE, ignore_errors=True)
        shutil.copytree(folder / ".headwater" / "lake", HERE / "lake")
        for log in HERE.rglob("_delta_log/*.json"):
            log.write_text(re.sub(r"file://[^\"]*/lake/", "file:///lake/", log.read_text()))
        manifest = workspace.require("by_minute").manifest
        if manifest is not None:
            (HERE / "manifest.json").write_text(manifest.to_json())


if __name__ == "__main__":
    main()
