"""Training sets: labelled rows with the features that were known at their times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

from ml.features.on_demand import OnDemand, with_on_demand
from ml.features.point_in_time import Join
from ml.features.service import Features, FeatureService, service_of
from ml.features.view import FeatureView, require_columns
from pipeline.core.definitions import Definition, Expectation, Table, caller, names
from pipeline.core.errors import DefinitionError
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.sql import SqlTransform, sql_table
from pipeline.kernel.sql_text import quoted

_LABELS = "labelled"


@dataclass(frozen=True)
class TrainingSetTransform(SqlTransform):
    """A SELECT of labelled rows, joined to features."""

    event_time: str = ""
    features: tuple[Features, ...] = ()
    computed: tuple[OnDemand, ...] = ()
    joins: tuple[Join, ...] = ()
    """The features with their views; empty until the project is loaded."""

    @property
    def sql(self) -> str:
        """The SELECT with its features."""
        if not self.joins:
            return with_on_demand(super().sql, () if self.features else self.computed)
        time = f"{_LABELS}.{quoted(self.event_time)}"
        values = ", ".join(value for join in self.joins for value in join.values(time))
        joined = "\n".join(join.sql(_LABELS, time) for join in self.joins)
        select = f"select {_LABELS}.*, {values} from ({self._plain}) as {_LABELS}\n{joined}"
        return with_on_demand(select, self.computed)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The tables of the SELECT, and the feature views."""
        return tuple(dict.fromkeys((*SqlTransform(self.text).inputs, *(each.view for each in self.features))))

    def over(self, inputs: Mapping[str, Definition]) -> TrainingSetTransform:
        """Return the transform over these definitions of its inputs.

        Raises `DefinitionError` if features are not of a feature view or do not fit it, and if a name occurs twice.
        """
        joins = []
        labels = self.written.named_selects
        taken = dict.fromkeys(labels, "the labelled rows")
        folded = {name.lower(): name for name in labels}
        for number, selected in enumerate(self.features):
            view = inputs[selected.view]
            if not isinstance(view, FeatureView):
                raise DefinitionError(
                    f"features(…) names {selected.view!r}, which is not a feature view",
                    got=f"a {view.kind}",
                    do="define it with feature_view(…)",
                    place=selected.place,
                )
            join = Join(view, selected, f"f{number}")
            join.require_fit(labels)
            for name in join.names:
                same = folded.setdefault(name.lower(), name)
                if same in taken:
                    problem = f"the training set would have two columns {name!r}, of {taken[same]} and of {view.name!r}"
                    raise DefinitionError(problem, do="write 'name as other', or pass prefix=", place=selected.place)
                taken[name] = repr(view.name)
            joins.append(join)
        computed = []
        for each in self.computed:
            computed.append(each.over(taken, "the training set"))
            taken |= dict.fromkeys(each.names, "on_demand(…)")
        return replace(self, joins=tuple(joins), computed=tuple(computed))


@dataclass(frozen=True, kw_only=True)
class TrainingSet(Table):
    """A table with a row for each example: its label, and what was known at its event time."""

    event_time: str

    @property
    def joins(self) -> tuple[Join, ...]:
        """Its features of views, with the views; empty until the project is loaded."""
        return self.transform.joins if isinstance(self.transform, TrainingSetTransform) else ()

    @property
    def computed(self) -> tuple[OnDemand, ...]:
        """Its on-demand features."""
        return self.transform.computed if isinstance(self.transform, TrainingSetTransform) else ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns of the labelled rows."""
        return (
            tuple(SqlTransform(self.transform.text).written.named_selects)
            if isinstance(self.transform, SqlTransform)
            else ()
        )

    @property
    def views(self) -> dict[str, str]:
        """The feature views that it reads, with what determines their values; see `FeatureView.online_fingerprint`."""
        return {join.view.name: join.view.online_fingerprint for join in self.joins}

    @property
    def fingerprint(self) -> str:
        """Changes with everything that determines the rows, and with the event time."""
        return fingerprint(super().fingerprint, self.event_time)


def training_set(  # noqa: PLR0913 - options of a definition, all keyword-only
    text: str,
    *,
    key: str | Sequence[str],
    event_time: str,
    features: FeatureService | Sequence[Features | OnDemand] = (),
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> TrainingSet:
    """Define examples as a SELECT with one row per `key`, extended by features; see `docs/features.md`.

    `event_time` is the time of the prediction: the columns of the SELECT must contain only what was known then, except for
    labels, which models name. Each of the `features` has the value that was known at that time. Columns must be listed by
    name, because they are the parameters of a model's endpoint. A leading comment is the description.

    Raises `DefinitionError` if the SELECT lacks a column that is named here. When the project is loaded, features of an
    unknown view, unknown features and names that occur twice are errors.
    """
    place = caller()
    columns = names(key)
    if not columns:
        raise DefinitionError("a training set has no key", do="name the column that identifies its rows", place=place)
    plain = SqlTransform(text)
    require_columns(plain, {**dict.fromkeys(columns, "key"), event_time: "event time"}, place, "training set")
    service = service_of(features)
    table = sql_table(
        plain,
        place,
        kind=TrainingSet,
        layer="gold",
        role="training set",
        key=columns,
        expect=tuple(expect),
        description=description,
        event_time=event_time,
    )
    return replace(
        cast("TrainingSet", table), transform=TrainingSetTransform(text, event_time, service.features, service.computed)
    )
