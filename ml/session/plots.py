"""A chart of rows in a notebook, drawn as in the report."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from ml.session.display import CLASS, style
from pipeline.report.charts import RenderedChart


@dataclass(frozen=True, repr=False)
class Plot:
    """A chart. It contains its style, follows the theme of the notebook, and needs no script."""

    chart: RenderedChart

    def __repr__(self) -> str:
        """Return the title and the values as text."""
        lines = [self.chart.title, *(["  ".join(self.chart.head)] if self.chart.head else [])]
        return "\n".join([*lines, *("  ".join(line) for line in self.chart.lines), *self.chart.notes])

    def _repr_html_(self) -> str:
        caption = Markup("<figcaption>{}</figcaption>").format(self.chart.title)
        note = Markup('<p class="note">{}</p>').format(" ".join(self.chart.notes)) if self.chart.notes else ""
        drawn = self.chart.picture or ""
        return str(Markup('<figure class="{}">{}{}{}{}</figure>').format(CLASS, style(), caption, drawn, note))
