"""Counts per window, segment, feature and bin, as SELECTs with mergeable aggregates, which the batch engine executes.

Three SELECTs have one shape, so that they run over tables of any size, in splits, on Ray, and with new rows only:

| table | rows |
| --- | --- |
| `<monitor>_bins` | one: for each numerical feature its quantiles and range, for each categorical one its frequent values |
| `<monitor>_counts` | one for each window, segment, feature and bin that has rows |
| `<monitor>_reference` | the same without windows, if the reference is another table |

Bins do not change while windows are counted, since counts of different bins cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from ml.companions import ALIAS, StatementTransform
from ml.features.training_set import TrainingSet
from pipeline.core.definitions import Definition
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.event_time import parse_duration
from pipeline.kernel.sql_text import literal, quoted

NULL, NAN, OTHER = -1, -2, 0
"""The bins of null and of NaN; for a categorical feature, that of values that the reference did not have often."""
LEAST_REFERENCE = 200
"""The rows of the reference from which bins are computed: ten for each twentieth."""
NONE = "(null)"
"""The segment of rows whose segment is null."""


@dataclass(frozen=True)
class Feature:
    """A column, or a SQL expression, whose distribution is monitored."""

    name: str
    sql: str
    is_numerical: bool


@dataclass(frozen=True)
class Binning:
    """The features of a monitor and into how many bins each is divided."""

    features: tuple[Feature, ...]
    bins: int
    """The number of quantile bins of a numerical feature; those below and above the reference's range are added."""
    categories: int
    """The most values of a categorical feature that have a bin of their own."""

    @property
    def width(self) -> int:
        """The number of bins of the feature with the most, with those of null and NaN."""
        return max(self.bins + 2, self.categories + 1) + 2

    def edges(self, source: str) -> str:
        """Return the SELECT of the row of bins."""
        values, columns = [], []
        for i, feature in enumerate(self.features):
            if feature.is_numerical:
                value = f"({feature.sql})::double"
                values.append(f"case when isfinite({value}) then {value} end as v{i}")
                steps = ", ".join(f"{step / self.bins:.6g}" for step in range(1, self.bins))
                columns.append(f"list_sort(approx_quantile(v{i}, [{steps}])) as edges_{i}")
                columns.append(f"min(v{i}) as low_{i}, max(v{i}) as high_{i}")
            else:
                values.append(f"({feature.sql})::varchar as v{i}")
                columns.append(f"approx_top_k(v{i}, {self.categories}) as values_{i}")
        listed = ",\n       ".join((*columns, "count(*) as reference_rows"))
        rows = f"(select {', '.join(values)} from {source}) as each_row"
        return f"select {listed}\nfrom {rows}\nhaving count(*) >= {LEAST_REFERENCE}"

    def counts(self, source: str, bins: str, keys: Mapping[str, str], window: timedelta | None = None) -> str:
        """Return the SELECT of counts per key, feature and bin; `keys` are expressions by name.

        With `window`, the first key is a time, and the statement groups by event-time windows of it, as a stream needs.
        """
        columns = [f"{sql} as {quoted(name)}" for name, sql in keys.items()]
        columns += [
            f"({f.sql})::{'double' if f.is_numerical else 'varchar'} as v{i}" for i, f in enumerate(self.features)
        ]
        binned = ",\n        ".join(self._binned(i, feature) for i, feature in enumerate(self.features))
        listed = "".join(f"{quoted(name)}, " for name in keys)
        names = ", ".join(literal(feature.name) for feature in self.features)
        grouped, selected = listed, listed
        if window is not None:
            time, *others = map(quoted, keys)
            tumbled = f"tumble({time}, interval '{int(window.total_seconds())}' second)"
            rest = "".join(f"{name}, " for name in others)
            grouped, selected = f"{tumbled}, {rest}", f"{tumbled} as {time}, {rest}"
        return f"""
            select {selected}[{names}][feature_number] as feature, bin, count(*) as rows, min(value) as low,
                   max(value) as high, sum(value) as total, sum(value * value) as squares, min(other) as first_other,
                   max(other) as last_other
            from (
                select {listed}of_row.n as feature_number, of_row.b as bin, of_row.v as value, of_row.t as other
                from (
                    select {listed}unnest([{binned}]) as of_row
                    from (select {", ".join(columns)} from {source}) as each_row cross join {quoted(bins)}
                ) as each_feature
            ) as each_value
            group by {grouped}feature_number, bin
        """

    def _binned(self, number: int, feature: Feature) -> str:
        """Return the struct of a feature of a row: its number, bin and value, and its text if that has no bin."""
        value = f"v{number}"
        if feature.is_numerical:
            tree = _search(value, f"edges_{number}", 1, self.bins - 1)
            beyond = f"case when isnan({value}) then {NAN} else {self.bins + 1} end"
            inside = f"when {value} < low_{number} then 0 when {value} <= high_{number} then {tree} else {beyond}"
            bin_ = f"case when {value} is null then {NULL} {inside} end"
            finite = f"case when isfinite({value}) then {value} end"
            return f"{{'n': {number + 1}, 'b': {bin_}, 'v': {finite}, 't': null::varchar}}"
        place = f"coalesce(list_position(values_{number}, {value}), {OTHER})"
        bin_ = f"case when {value} is null then {NULL} else {place} end"
        other = f"case when {place} = {OTHER} then left({value}, 200) end"
        return f"{{'n': {number + 1}, 'b': {bin_}, 'v': null::double, 't': {other}}}"


def _search(value: str, edges: str, first: int, last: int) -> str:
    """Return the number of edges below a value plus 1, by comparisons with the middle one."""
    if first > last:
        return str(first)
    middle = (first + last) // 2
    below, above = _search(value, edges, first, middle - 1), _search(value, edges, middle + 1, last)
    return f"case when {value} <= {edges}[{middle}] then {below} else {above} end"


@dataclass(frozen=True)
class RowSource:
    """Where rows are read: a table, or the rows of a training set before a time."""

    table: str
    before: str = ""
    """For a training set, the time before which its rows were trained on (ISO 8601, UTC)."""
    place: Place | None = field(default=None, compare=False, repr=False)

    def source(self, examples: Definition | None) -> str:
        """Return the FROM item; raise `DefinitionError` if rows before a time are not of a training set."""
        if not self.before or examples is None:
            return f"{quoted(self.table)} as {ALIAS}"
        if not isinstance(examples, TrainingSet):
            problem = f"training(…) needs the training set of a model, but {self.table!r} is a {examples.kind}"
            raise DefinitionError(problem, do="define it with training_set(…)", place=self.place)
        time = quoted(examples.event_time)
        return f"(select * from {quoted(self.table)} where {time} < timestamptz {literal(self.before)}) as {ALIAS}"


@dataclass(frozen=True)
class CountTransform(StatementTransform):
    """The SELECT of bins or of counts over rows; those of a training set are known when the project is loaded."""

    rows: RowSource = RowSource("")
    binning: Binning = Binning((), 0, 0)
    bins: str = ""
    """The name of the table of bins; empty for the SELECT of bins itself."""
    keys: tuple[tuple[str, str], ...] = ()

    def over(self, inputs: Mapping[str, Definition]) -> CountTransform:
        """Return the transform over these definitions of its inputs; raise `DefinitionError` if they do not fit."""
        return self.read_from(inputs.get(self.rows.table))

    def read_from(self, table: Definition | None) -> CountTransform:
        """Return the transform over this definition of the table of its rows; `None` if that is not known yet."""
        source = self.rows.source(table)
        text = self.binning.counts(source, self.bins, dict(self.keys)) if self.bins else self.binning.edges(source)
        return replace(self, text=text)

    @classmethod
    def of(
        cls, rows: RowSource, binning: Binning, bins: str = "", keys: tuple[tuple[str, str], ...] = ()
    ) -> CountTransform:
        """Return the SELECT of bins, or of counts by the table `bins`."""
        reads = (rows.table, *((bins,) if bins else ()))
        expressions = (*(sql for _, sql in keys), *(each.sql for each in binning.features))
        read = tuple((rows.table, sql) for sql in expressions)
        return cls("", reads, read, rows, binning, bins, keys).read_from(None)


def window_length(window: str | timedelta, place: Place) -> timedelta:
    """Return the length of windows; raise `DefinitionError` unless it is whole seconds."""
    length = parse_duration(window, "window", place)
    if length < timedelta(seconds=1) or length % timedelta(seconds=1):
        raise DefinitionError("window= must be whole seconds", got=repr(window), place=place)
    return length


def segment_key(segment: str) -> dict[str, str]:
    """Return the key by which rows are divided into segments, if `segment`, a column or SQL expression, is not empty."""
    return {"segment": f"coalesce(({segment})::varchar, {literal(NONE)})"} if segment else {}


def window_key(time: str, window: timedelta) -> str:
    """Return the start of the window of a time: windows begin at multiples of their length from Monday, 2000-01-03, UTC."""
    seconds = int(window.total_seconds())
    return f"time_bucket(interval '{seconds}' second, ({time})::timestamp)"
