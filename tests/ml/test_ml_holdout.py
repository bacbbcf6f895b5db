"""Which rows are held out: by time, the newest, or by group; and the folds on which trials are compared."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from ml.models.holdout import Holdout, holdout_of
from pipeline.core.errors import DefinitionError, Place
from tests.ml.rows import labelled

PLACE = Place("here.py", 1)
ROWS = labelled(1000)


@pytest.mark.parametrize(
    ("holdout", "held_out", "words"),
    [
        (Holdout(at=datetime(2026, 1, 1, 10, tzinfo=UTC)), 400, "from 2026-01-01 10:00 on"),
        (Holdout(newest=timedelta(minutes=60)), 60, "of the newest 1 hour"),
        (Holdout(share=0.25), 250, "that are the newest 25%"),
    ],
)
def test_later_rows_are_held_out(holdout, held_out, words):
    mask = holdout.mask(ROWS)
    assert mask.sum() == held_out
    assert mask[-held_out:].all()
    assert holdout.words == words


def test_rows_of_one_time_are_on_one_side():
    days = replace(ROWS, time=ROWS.time.dt.floor("2h"))
    for mask in (Holdout(share=0.25).mask(days), Holdout(share=0.25).validation(days)):
        assert not set(days.time[mask]) & set(days.time[~mask])
        assert 0.2 < mask.mean() < 0.4


def test_rows_of_a_group_are_on_one_side_always_the_same():
    holdout = Holdout(by=("customer",), share=0.3)
    mask, validation = holdout.mask(ROWS), holdout.validation(ROWS)
    sides = [set(ROWS.group[part]) for part in (mask, ~mask)]
    assert not sides[0] & sides[1]
    assert 0.1 < mask.mean() < 0.5
    part = ROWS.where(np.arange(len(ROWS)) % 3 == 0)  # more rows later do not move a group to the other side
    assert set(part.group[holdout.mask(part)]) <= sides[0]
    assert (mask != validation).any(), "validation draws other groups than the holdout"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_folds_walk_forward_and_never_see_what_they_predict(count):
    folds = Holdout(share=0.2).folds(ROWS, count)
    assert len(folds) == count
    for train, validation in folds:
        assert train.sum() > 0
        assert validation.sum() > 0
        assert np.flatnonzero(train).max() < np.flatnonzero(validation).min()
    assert folds[-1][0].sum() + folds[-1][1].sum() == len(ROWS)


def test_folds_of_groups_are_disjoint_and_validate_every_row_once():
    folds = Holdout(by=("customer",)).folds(ROWS, 4)
    assert (sum(validation.astype(int) for _, validation in folds) == 1).all()
    for train, validation in folds:
        assert not set(ROWS.group[train]) & set(ROWS.group[validation])


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"split_at": "2026-01-02"}, Holdout(at=datetime(2026, 1, 2, tzinfo=UTC))),
        ({"holdout": "30 days"}, Holdout(newest=timedelta(days=30))),
        ({"holdout": 0.1}, Holdout(share=0.1)),
        ({"split_by": ("a", "b")}, Holdout(by=("a", "b"))),
        ({"split_by": ("a",), "holdout": 0.5}, Holdout(by=("a",), share=0.5)),
    ],
)
def test_options_of_a_model(options, wanted):
    assert holdout_of(**{"split_at": "", "holdout": None, "split_by": (), "place": PLACE, **options}) == wanted


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "the model has no rows to be evaluated on; pass split_at"),
        ({"split_at": "2026-01-02", "holdout": 0.1}, "a model has either split_at= or holdout="),
        ({"split_at": "2026-01-02", "split_by": ("a",)}, "a model has either split_at= or holdout="),
        ({"holdout": 0}, "holdout= is neither a share nor a duration: got 0; pass a share"),
        ({"holdout": 1.5}, "holdout= is neither a share nor a duration"),
        ({"holdout": True}, "holdout= is neither a share nor a duration"),
        ({"holdout": "soon"}, "holdout= is not a duration"),
        ({"holdout": "3 days", "split_by": ("a",)}, "split_by= holds out a share of the groups: got '3 days'"),
    ],
)
def test_invalid_options(options, problem):
    with pytest.raises(DefinitionError, match=problem):
        holdout_of(**{"split_at": "", "holdout": None, "split_by": (), "place": PLACE, **options})
