"""Features that a model cannot have when it predicts: they know the label, or are times after the prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ml.models.rows import Kind, LabelledRows
from ml.models.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

KNOWS = 0.995
"""A feature that alone predicts the label as well as this (AUC, accuracy or the square of a correlation of ranks) is a leak."""
_LEAST_ROWS = 50
_LEAVES = 100


def leaks(rows: LabelledRows, kinds: Mapping[str, Kind], task: Task, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Return a sentence for each leak among the features, apart from those that are allowed."""
    return tuple(
        sentence
        for name, kind in kinds.items()
        if name not in allowed
        for sentence in _of_feature(rows, name, kind, task)
    )


def _of_feature(rows: LabelledRows, name: str, kind: Kind, task: Task) -> Iterator[str]:
    column = rows.features[name]
    if kind == "timestamp":
        later = (column > rows.time).to_numpy()
        if not later.any() and _skill(column.isna().astype(float), "number", rows.label, task) >= KNOWS:
            yield f"whether the feature {name!r} is null alone predicts the label: is it known before? Then pass leaks={name!r}"
        if later.any():
            yield (
                f"the feature {name!r} is later than the event time in {int(later.sum()):,} rows"
                f" (if it is known before, pass leaks={name!r})"
            )
        return
    missing = column.isna().astype(float)
    skill = max(_skill(column, kind, rows.label, task), _skill(missing, "number", rows.label, task))
    if skill >= KNOWS:
        yield f"the feature {name!r} alone predicts the label (skill {skill:.3f}): is it known before? Then pass leaks={name!r}"


def _skill(column: pd.Series, kind: Kind, label: pd.Series, task: Task) -> float:
    """Return how well a column alone predicts the label: 1 for always, and 0.5 (AUC) or 0 for not at all."""
    known = column.notna().to_numpy()
    if known.sum() < max(_LEAST_ROWS, len(column) // 2):
        return 0.0
    values, labels = column[known].reset_index(drop=True), label[known].reset_index(drop=True)
    if task.name == "multiclass":
        return _share_above_chance(values, labels) if kind == "text" else _share_of_tree(values, labels)
    if kind == "text":
        values, labels = _mean_labels(values, labels)
    scores = values.astype(float).to_numpy()
    if labels.nunique() < 2:  # noqa: PLR2004 - one label is always predicted
        return 0.0
    if task.name == "binary":
        from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - needed only for training

        auc = float(roc_auc_score(labels, scores))
        return max(auc, 1 - auc)
    import numpy as np  # noqa: PLC0415 - needed only for training
    import pandas as pd  # noqa: PLC0415 - likewise

    a, b = (pd.Series(each).rank().to_numpy() for each in (scores, labels.to_numpy()))
    return 0.0 if a.std() == 0 or b.std() == 0 else float(np.corrcoef(a, b)[0, 1] ** 2)


def _mean_labels(values: pd.Series, labels: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return for every second row the mean label of the other rows with its value, and its label."""
    means = labels[::2].astype(float).groupby(values[::2]).mean()
    return values[1::2].map(means).fillna(float(labels[::2].mean())), labels[1::2]


def _share_of_tree(values: pd.Series, labels: pd.Series) -> float:
    """Return how much of what the most frequent label does not predict, a decision tree of a number does."""
    from sklearn.tree import DecisionTreeClassifier  # noqa: PLC0415 - needed only for training

    numbers, texts = values.astype(float).to_numpy().reshape(-1, 1), labels.astype(str).to_numpy()
    tree = DecisionTreeClassifier(max_leaf_nodes=_LEAVES, random_state=0).fit(numbers[::2], texts[::2])
    right = float((tree.predict(numbers[1::2]) == texts[1::2]).mean())
    chance = float((texts[1::2] == labels[::2].astype(str).mode().iloc[0]).mean())
    return 0.0 if chance == 1 else (right - chance) / (1 - chance)


def _share_above_chance(values: pd.Series, labels: pd.Series) -> float:
    """Return how much of what the most frequent label does not predict, the most frequent label of each value does."""
    frequent = labels[::2].groupby(values[::2]).agg(lambda part: part.mode().iloc[0])
    common = labels[::2].mode().iloc[0]
    right = float((values[1::2].map(frequent).fillna(common) == labels[1::2]).mean())
    chance = float((labels[1::2] == common).mean())
    return 0.0 if chance == 1 else (right - chance) / (1 - chance)
