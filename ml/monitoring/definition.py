"""Monitors: definitions that compare the rows of each window with a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from ml.companions import CompanionTable
from ml.monitoring.alarm_rules import Alarms
from ml.monitoring.counts import Binning, CountTransform, Feature, RowSource, segment_key, window_key, window_length
from ml.monitoring.monitored import Monitored
from ml.monitoring.references import Fixed, Reference
from pipeline.core.definitions import Chart, Definition, Layer, Table, caller, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.sql import SqlTransform
from pipeline.kernel.sql_text import quoted

if TYPE_CHECKING:
    import pyarrow as pa

Columns = Sequence[str] | Mapping[str, str]
"""Columns, or SQL expressions by name."""


@dataclass(frozen=True)
class DriftTransform:
    """Computes the results from counts; called with all rows of its inputs."""

    inputs: tuple[str, ...]
    """The tables of counts, of bins and, if there is one, of the reference's counts."""
    monitored: Monitored

    @property
    def fingerprint(self) -> str:
        """A hash of what the results depend on besides the counts."""
        return fingerprint("drift", repr(self.monitored))

    @property
    def language(self) -> str:
        """`arrow`."""
        return "arrow"

    def __call__(self, *args: Any, **tables: Any) -> pa.Table:
        """Return the results."""
        from ml.monitoring.drift_results import drift_results  # noqa: PLC0415 - imports NumPy

        given = {**dict(zip(self.inputs, args, strict=False)), **tables}
        counts, bins, *reference = (given[name] for name in self.inputs)
        return drift_results(counts, bins, reference[0] if reference else None, self.monitored)


@dataclass(frozen=True, kw_only=True)
class Monitor(Table):
    """The drift of the features of a table: a row for each window, segment and feature."""

    transform: DriftTransform
    of: str
    time: str
    segment: str
    has_report: bool
    """Whether a run that computes it writes Evidently's report of its newest window."""
    is_streamed: bool
    """Whether a stream counts its windows."""

    @property
    def monitored(self) -> Monitored:
        """The options that decide the results."""
        return self.transform.monitored

    @cached_property
    def companions(self) -> tuple[Definition, ...]:
        """The tables of bins and counts that it is computed from."""
        bins, counts = f"{self.name}_bins", f"{self.name}_counts"
        segment = tuple(segment_key(self.segment).items())
        options = self.monitored
        others = (*((n, quoted(n)) for n in options.by), *segment)
        of, fixed = RowSource(self.of), options.reference if isinstance(options.reference, Fixed) else None
        rows = of if fixed is None else fixed.rows
        parts: list[Definition] = [
            self._part(bins, "monitor bins", CountTransform.of(rows, options.binning), once=True),
            self._part(counts, "monitor counts", self._counts(of, bins, others), is_streamed=self.is_streamed),
        ]
        if fixed is not None:
            transform = CountTransform.of(rows, options.binning, bins, segment)
            parts.append(self._part(f"{self.name}_reference", "monitor counts", transform))
        return tuple(parts)

    def _counts(self, of: RowSource, bins: str, others: tuple[tuple[str, str], ...]) -> SqlTransform:
        """Return the SELECT of counts by window; for a stream, in its functions of event-time windows."""
        options = self.monitored
        if self.is_streamed:
            keys = {"window_start": self.time, **dict(others)}
            return SqlTransform(options.binning.counts(of.source(None), bins, keys, options.window))
        start = ("window_start", window_key(self.time, options.window))
        return CountTransform.of(of, options.binning, bins, (start, *others))

    def _part(
        self, name: str, role: str, transform: SqlTransform, *, once: bool = False, is_streamed: bool = False
    ) -> Table:
        described = f"{role.removeprefix('monitor ').capitalize()} of the monitor {self.name}."
        return CompanionTable(
            place=self.place,
            name=name,
            description=described,
            transform=transform,
            layer="silver",
            role=role,
            is_computed_once=once,
            is_streamed=is_streamed,
            belongs_to=self.name,
        )

    def named(self, name: str) -> Self:
        """Return the monitor with this name, and with the inputs that are named after it."""
        monitor = super().named(name)
        inputs = [f"{monitor.name}_counts", f"{monitor.name}_bins"]
        inputs += [f"{monitor.name}_reference"] if isinstance(self.monitored.reference, Fixed) else []
        chart = Chart("line", x="window_start", y="psi", by="feature", title=f"{monitor.name}: drift (PSI) by feature")
        return replace(monitor, transform=replace(monitor.transform, inputs=tuple(inputs)), chart=chart)


def monitor(  # noqa: PLR0913 - options of a definition, all keyword-only
    *,
    of: str,
    time: str,
    reference: Reference,
    numerical: Columns = (),
    categorical: Columns = (),
    window: str | timedelta = "1 day",
    segment: str = "",
    by: str | Sequence[str] = (),
    prediction: str = "",
    alarms: Alarms | None = None,
    bins: int = 20,
    categories: int = 30,
    report: bool = False,
    streamed: bool = False,
    layer: Layer = "gold",
    description: str = "",
) -> Monitor:
    """Compare the distributions of columns in each window with those of a reference; see `docs/monitoring.md`.

    `of` is the table, and `time` its column with the time that decides the window of a row. `numerical` and `categorical`
    are the columns to compare, or SQL expressions by name. Windows of `window` are cut at other values of the columns `by`,
    for example the version of a model; `segment`, a column or SQL expression, divides them further, besides all rows. The
    column `prediction` is suspected of a fault of its own if it drifts alone. With `report`, each run that computes the monitor
    writes Evidently's report of its newest window. With `streamed`, the counts are a stream of the streamed table `of`, which
    emits a window when it closes, instead of being computed by runs.

    Raises `DefinitionError` for a monitor without columns, a name that occurs twice, and a window that does not fit the
    reference.
    """
    place = caller()
    features = (*_features(numerical, place, is_numerical=True), *_features(categorical, place, is_numerical=False))
    _require(features, prediction, alarms or Alarms(), place)
    length = window_length(window, place)
    if not isinstance(reference, Fixed):
        reference.require_fit(length)
    for value, name, least in ((bins, "bins", 2), (categories, "categories", 1)):
        if value < least:
            raise DefinitionError(f"{name}= must be at least {least}", got=repr(value), place=place)
    return Monitor(
        place=place,
        description=description or f"Distributions of {of} by {window}, compared with {reference.words}.",
        transform=DriftTransform(
            (),
            Monitored(
                Binning(features, bins, categories),
                length,
                reference,
                alarms or Alarms(),
                names(by),
                bool(segment),
                prediction,
            ),
        ),
        layer=layer,
        role="monitor",
        of=of,
        time=quoted(time),
        segment=segment,
        has_report=report,
        is_streamed=streamed,
    )


def _features(columns: Columns, place: Place, *, is_numerical: bool) -> tuple[Feature, ...]:
    if isinstance(columns, str):
        raise DefinitionError("columns are a list", got=repr(columns), do=f"write [{columns!r}]", place=place)
    named = columns.items() if isinstance(columns, Mapping) else ((name, quoted(name)) for name in columns)
    return tuple(Feature(name, sql, is_numerical) for name, sql in named)


def _require(features: Sequence[Feature], prediction: str, alarms: Alarms, place: Place) -> None:
    known = [feature.name for feature in features]
    if not known:
        do = "name columns as numerical= or categorical="
        raise DefinitionError("the monitor has no columns to compare", do=do, place=place)
    twice = next((name for name in known if known.count(name) > 1), None)
    if twice is not None:
        raise DefinitionError(f"the monitor names {twice!r} twice", do="name it once", place=place)
    if prediction and prediction not in known:
        do = did_you_mean(prediction, known)
        raise DefinitionError(f"prediction= names {prediction!r}, which is not compared", do=do, place=place)
    unknown = next((name for name in alarms.weights if name not in known), None)
    if unknown is not None:
        do = did_you_mean(unknown, known)
        raise DefinitionError(f"weights= names {unknown!r}, which is not compared", do=do, place=place)
