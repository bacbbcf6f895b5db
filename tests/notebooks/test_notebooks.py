"""The notebooks run, each in an interpreter of its own, and find what was planted in their data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.rigs.command import environment
from tests.rigs.notebook_program import check_html

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
PROGRAM = ROOT / "tests" / "rigs" / "notebook_program.py"
NUMBER = r"(-?[\d,.]*\d)"
EVERY = ("drift", "explore", "features", "streams", "train")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def printed(tmp_path):
    """Runs a notebook and returns what its cells print."""

    def run(name: str, **variables: str) -> str:
        process = subprocess.run(
            [sys.executable, "-W", "error::DeprecationWarning:ml", PROGRAM, f"{name}.ipynb"],
            cwd=NOTEBOOKS,
            env=environment(
                {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables}
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr[-4000:]
        return process.stdout

    return run


def numbers(pattern: str, text: str) -> list[float]:
    """Return the numbers of a line that matches a pattern, in which `#` stands for a number."""
    match = re.search(pattern.replace("#", NUMBER), text)
    assert match, f"no line has {pattern!r}:\n{text}"
    return [float(each.replace(",", "")) for each in match.groups()]


def test_features_are_those_that_were_known(printed):
    text = printed("features")
    leaky, known = numbers("correlation with the label: leaky #, as known #", text)
    assert leaky > 2 * known > 0
    assert numbers("# riders, # differ", text) == [300, 0]


def test_drift_is_found_in_june_and_the_new_model_is_better(printed):
    text = printed("drift")
    assert "May: skip because not trained again: no alarm of trip_drift" in text
    assert re.search(r"June: accepted because .* against champion 1 on the same rows", text)
    assert "first alarm: 2026-06-08 about bike" in text
    before, after = numbers("AUC on the end of June: version 1 #, version 2 #", text)
    assert after > before + 0.02
    assert "model overtime, version 2, champion" in text


def test_a_stream_equals_batch(printed):
    text = printed("streams")
    (windows,) = numbers("windows: # until 2026-02-28", text)
    february, march = numbers("February: # March: #", text)
    assert windows == february < march
    assert numbers("late: # of #", text)[0] == 1
    assert numbers("missing: # unexpected: #", text) == [0, 0]


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_exploring_reads_pinned_versions_on_the_cluster(printed, cluster):
    text = printed("explore", RAY_ADDRESS=cluster)
    before, newest, first = numbers("as before: # newest: # version 0: #", text)
    assert before == first < newest
    assert numbers("mean of # trips from the lake: # km", text)[1] == pytest.approx(5.4, abs=0.2)
    assert "there is no table 'trip'; did you mean 'trips'?" in text


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_training_and_tuning_on_the_cluster(printed, cluster):
    text = printed("train", RAY_ADDRESS=cluster)
    assert re.search(r"overtime_tuned +accepted", text)
    assert "most important: expected_minutes" in text
    short, long = numbers("probability of overtime: # for 1.5 km, # for 12 km", text)
    assert short < 0.1
    assert long > 0.6


def test_notebooks_are_stored_without_outputs():
    assert tuple(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))) == EVERY
    for name in EVERY:
        notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
        assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
        ids = [cell["id"] for cell in notebook["cells"]]
        assert len(set(ids)) == len(ids)
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_links_of_notebooks_have_a_target():
    for name in EVERY:
        text = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
            assert (NOTEBOOKS / target).exists(), f"{name} links to {target}"


@pytest.mark.parametrize("text", ["<p><b>a</p></b>", "<div>", "</div>", "<script></script>"])
def test_the_check_of_html_finds_what_is_wrong(text):
    check_html('<p title="<">a &lt; b</p><br>')
    with pytest.raises(ValueError, match=r"closes nothing|is not closed|a script"):
        check_html(text)
