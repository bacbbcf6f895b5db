"""Rows that are divided where they are stored: the same parts, counts and codes as in memory, from files in any order."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import LightGBM, XGBoost, model, training_set
from ml.models import stored_rows
from ml.models.card import Card, html_card, markdown_card
from ml.models.evaluation import Evaluation
from ml.models.holdout import Holdout
from ml.models.registry.registry import Origin
from ml.models.rows import split, typed
from ml.models.stored_rows import spool
from ml.models.stored_split import split_stored
from ml.models.trainers.distributed import StoredBoostingRows
from ml.models.trainers.encoding import FeatureEncoding
from ml.models.trainers.rounds import Rounds
from ml.models.training import Evaluated
from pipeline.core.errors import DefinitionError, ModelError, Place
from tests.ml.rows import CLASSES, KINDS, labelled, stored, stored_scan
from tests.rigs.proofs import examples

PLACE = Place("here.py", 1)
RIDES = training_set("select id, at, x, city, who, y from raw", key="id", event_time="at").named("rides")
START = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = {"binary": [True, False, None], "multiclass": ["a", "b", "ü", None], "regression": [0.5, -3.0, 2.25, None]}
HOLDOUTS = [
    Holdout(at=START + timedelta(minutes=30)),
    Holdout(newest=timedelta(minutes=20)),
    Holdout(share=0.3),
    Holdout(share=0.5, by=("who",)),
    Holdout(share=0.4, by=("who", "city")),
]
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "minute": st.none() | st.integers(0, 60),
            "x": st.none() | st.floats(allow_nan=False, width=32),
            "city": st.none() | st.sampled_from(["Ulm", "Bonn", "", "Ülm"]),
            "who": st.none() | st.integers(0, 9),
            "y": st.integers(0, 3),
        }
    ),
    min_size=1,
    max_size=80,
)


def table_of(rows, task):
    labels = LABELS[task]
    return pa.table(
        {
            "id": pa.array(range(len(rows)), pa.int64()),
            "at": pa.array(
                [None if each["minute"] is None else START + timedelta(minutes=each["minute"]) for each in rows],
                pa.timestamp("us", "UTC"),
            ),
            "x": pa.array([each["x"] for each in rows], pa.float64()),
            "city": pa.array([each["city"] for each in rows], pa.string()),
            "who": pa.array([each["who"] for each in rows], pa.int64()),
            "y": pa.array([labels[each["y"] % len(labels)] for each in rows]),
        }
    ).cast(
        pa.schema(
            [
                ("id", pa.int64()),
                ("at", pa.timestamp("us", "UTC")),
                ("x", pa.float64()),
                ("city", pa.string()),
                ("who", pa.int64()),
                ("y", {"binary": pa.bool_(), "multiclass": pa.string(), "regression": pa.float64()}[task]),
            ]
        )
    )


def outcome(divide):
    """What is known of the parts of rows, or the error."""
    try:
        parts = divide()
    except (ModelError, DefinitionError) as error:
        return str(error)
    sides = []
    for rows in (parts.train, parts.holdout):
        others = rows.others.astype({"who": float}) if "who" in rows.others else rows.others
        columns = rows.features.assign(label=rows.label, time=rows.time, group=rows.group, **others)
        known = rows.part
        mean = None if parts.task.name == "multiclass" else pytest.approx(known.mean_label)
        sides.append((columns.to_json(date_format="iso"), known.rows, known.first, known.last, mean))
    return sides, parts.kinds, parts.task, parts.rows, parts.unlabelled, parts.undated


@settings(max_examples=examples(10, 300), deadline=None)
@given(ROWS, st.sampled_from(HOLDOUTS), st.sampled_from(sorted(LABELS)), st.integers(1, 3))
def test_parts_of_files_are_those_of_memory(rows, holdout, task, files):
    table = table_of(rows, task)
    metric = {"binary": "auc", "multiclass": "accuracy", "regression": "mae"}[task]
    evaluation = Evaluation("y", holdout, metric, 0.5, ("city",), 1, task, segments=("who",))
    with tempfile.TemporaryDirectory() as folder:
        scan = stored_scan(table.take(np.random.default_rng(1).permutation(len(rows))), Path(folder), files)
        wanted = outcome(lambda: split(table, RIDES, evaluation, PLACE))
        assert outcome(lambda: split_stored(scan, RIDES, evaluation, PLACE)) == wanted
        if isinstance(wanted, str):
            return
        train = split(table, RIDES, evaluation, PLACE).train
        whole = split_stored(scan, RIDES, evaluation, PLACE).stored
        assert whole.categories(3) == FeatureEncoding.learned(train.features, whole.kinds, 3).categories
        aside = holdout.validation(train)
        with whole.open() as con:
            others, rest = whole.validation(con)
            for part, mask in ((others, ~aside), (rest, aside)):
                assert part.count == mask.sum()
                if part.count:
                    same = part.sample(con)
                    assert same.features.equals(train.where(mask).features)
                    assert same.label.tolist() == train.where(mask).label.tolist()


@pytest.mark.parametrize("workers", [1, 3])
def test_shares_are_all_rows_once_the_same_whatever_their_order_in_files(workers, tmp_path):
    rows = labelled(500, task="multiclass")
    encoding = FeatureEncoding.learned(rows.features, KINDS)

    def shares(of):
        whole = stored(of, tmp_path, "multiclass")
        read = lambda batch: encoding.matrix(typed(batch, KINDS))  # noqa: E731
        for number in range(workers):
            yield spool(whole, (number, workers), read, tmp_path / f"{number}", CLASSES["multiclass"])

    found = list(shares(rows))
    assert sum(len(each.label) for each in found) == 500
    assert all(len(each.label) > 100 for each in found)
    assert all(isinstance(each.features, np.memmap) for each in found)
    together = np.concatenate([np.column_stack([each.features, each.label]) for each in found])
    codes = rows.label.map({each: number for number, each in enumerate(CLASSES["multiclass"])})
    wanted = np.column_stack([encoding.matrix(rows.features), codes])
    assert np.array_equal(np.sort(together, axis=0), np.sort(wanted, axis=0), equal_nan=True)


def test_a_part_that_is_too_large_is_a_sample_by_key_that_knows_all_rows(monkeypatch, tmp_path):
    monkeypatch.setattr(stored_rows, "SAMPLE_ROWS", 200)
    rows = labelled(4000)
    table = stored(rows, tmp_path)
    with table.open() as con:
        sample = table.sample(con)
    assert 150 < len(sample) < 250
    assert sample.part.rows == 4000
    assert sample.part.mean_label == pytest.approx(rows.label.mean())
    assert (sample.part.first, sample.part.last) == (rows.time.min(), rows.time.max())
    assert sample.time.is_monotonic_increasing
    again = stored(rows, tmp_path)
    with again.open() as con:
        assert again.sample(con).features.equals(sample.features)
        monkeypatch.setattr(stored_rows, "SAMPLE_VALUES", 1000)
        assert 70 < len(again.sample(con, classes=3)) < 130, "fewer rows of many columns and classes"


@pytest.mark.parametrize("library", [LightGBM, XGBoost])
@pytest.mark.parametrize("task", CLASSES)
def test_rows_of_a_file_give_the_trees_of_rows_in_memory(library, task, tmp_path):
    """One worker reads all rows, in the order of memory; XGBoost's bins of a file are not exactly those of memory."""
    rows = labelled(300, task=task)
    trainer = library()
    whole = stored(rows, tmp_path, task)
    encoding = FeatureEncoding(KINDS, whole.categories(1000))
    work = StoredBoostingRows(whole, None, encoding, CLASSES[task], ())
    mapped = work.share(0, 1, tmp_path)
    assert isinstance(mapped.features, np.memmap)
    objective = trainer.objectives[task]
    params = {
        "objective": objective,
        "nthread": 1,
        "max_depth": 3,
        **({"num_class": 3} if task == "multiclass" else {}),
    }
    in_memory = type(mapped)(np.array(mapped.features), mapped.label, mapped.weight, mapped.names, mapped.categorical)
    assert np.array_equal(in_memory.features, encoding.matrix(rows.features), equal_nan=True)
    trees, plain = (trainer.grow(each, None, Rounds(8, params), None) for each in (mapped, in_memory))
    if library is LightGBM:
        assert trees == plain
    assert trainer.grow(mapped, None, Rounds(8, params), None) == trees
    more = trainer.grow(
        mapped, None, Rounds(4, params, start=trainer.grow(mapped, None, Rounds(4, params), None)), None
    )
    if library is LightGBM:
        assert more.count(b"Tree=") == trees.count(b"Tree=")


def test_classes_of_equal_weight_and_rows_that_stop(tmp_path):
    rows = stored(labelled(600, task="multiclass"), tmp_path, "multiclass")
    weights, counts = rows.class_weights(CLASSES["multiclass"]), labelled(600, task="multiclass").label.value_counts()
    assert weights == pytest.approx([600 / (3 * counts[each]) for each in CLASSES["multiclass"]])
    earlier, newest = rows.newest(0.1)
    assert (earlier.count, newest.count) == (540, 60)
    work = StoredBoostingRows(
        earlier, newest, FeatureEncoding(KINDS, rows.categories(9)), CLASSES["multiclass"], weights
    )
    stopping = work.stopping(tmp_path)
    assert len(stopping.label) == 60
    assert set(stopping.weight) <= set(weights)


def test_labels_that_the_task_cannot_predict(tmp_path):
    table = pa.table({"id": [1, 2], "at": pa.array([START, START]), "x": [1.0, 2.0], "city": ["a", "b"], "who": [1, 2]})
    for label, task, problem in (
        ([0, 2], "binary", "the label 'y' is neither a boolean nor 0 and 1: got 0 to 2"),
        ([0.5, float("nan")], "regression", "the label 'y' has values that are not finite: got 1 rows"),
        ([0.5, 1.5], "multiclass", "the label 'y' is not a class: got double"),
    ):
        evaluation = Evaluation("y", Holdout(), "auc", 0.5, task=task)
        scan = stored_scan(table.append_column("y", pa.array(label)), tmp_path)
        with pytest.raises(ModelError, match=problem):
            split_stored(scan, RIDES, evaluation, PLACE)
        with pytest.raises(ModelError, match=problem):
            split(table.append_column("y", pa.array(label)), RIDES, evaluation, PLACE)


def test_dates_are_event_times(tmp_path):
    days = pd.date_range("2026-01-01", periods=10).date
    table = pa.table(
        {
            "id": range(10),
            "at": pa.array(days),
            "x": range(10),
            "city": ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"],
            "who": range(10),
            "y": [0, 1] * 5,
        }
    )
    evaluation = Evaluation("y", Holdout(at=datetime(2026, 1, 8, tzinfo=UTC)), "auc", 0.5, min_rows=1)
    parts = split_stored(stored_scan(table, tmp_path), RIDES, evaluation, PLACE)
    assert parts.holdout.features["x"].tolist() == [7, 8, 9]
    with pytest.raises(DefinitionError, match="the event time 'at' is not a date or timestamp"):
        split_stored(stored_scan(table.set_column(1, "at", pa.array(range(10))), tmp_path), RIDES, evaluation, PLACE)


def test_the_card_says_what_is_known_of_a_sample_and_how_many_rows_there_are(monkeypatch, tmp_path):
    monkeypatch.setattr(stored_rows, "SAMPLE_ROWS", 300)
    whole = stored(labelled(5000), tmp_path)
    late = model("rows", LightGBM(workers=2), label="y", holdout=0.2, at_least=0.5).named("late")
    parts = split_stored(whole.scan, whole.examples, late.evaluation, PLACE)
    found = Evaluated({"auc": 0.9}, {"auc": 0.5}, [], {}, (), "")
    card = Card(late, {}, parts, found, True, "good", Origin("f", {"rows": 1}), "run", ())  # noqa: FBT003 - accepted
    for text in (markdown_card(card), html_card(card)):
        assert "4,000" in text
        assert "1,000" in text
        training, holdout = len(parts.train), len(parts.holdout)
        assert f"leaks and the baseline are determined from {training} of the training rows, drawn by" in text
        assert f"Metrics, segments and importance are those of {holdout} of the holdout rows, drawn by" in text
