"""The function `files`, which checks the options of a definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import get_args

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.files.compression import COMPRESSED_SUFFIXES
from pipeline.connectors.files.csv.reader import Dialect
from pipeline.connectors.files.discovery import DiscoveryRules, OnChange, OnVanish, Order
from pipeline.connectors.files.encoding import encoding_of
from pipeline.connectors.files.excel_rows import ExcelSheet
from pipeline.connectors.files.expansion import DEFAULT_EXPANSION, Expansion
from pipeline.connectors.files.fixed_width import FixedWidth, WidthUnit
from pipeline.connectors.files.formats import FileConversion, Format
from pipeline.connectors.files.remote_clients import HTTP, RemoteClient
from pipeline.connectors.files.source import Files
from pipeline.connectors.files.stores import is_remote
from pipeline.connectors.files.xml_rows import XmlRows
from pipeline.core.errors import DefinitionError, SourceError, did_you_mean, few
from pipeline.core.event_time import parse_duration

_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".json": "json",
    ".ndjson": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".avro": "avro",
    ".orc": "orc",
    ".xlsx": "excel",
    ".xlsm": "excel",
    ".xml": "xml",
    ".fwf": "fixed width",
}
_OPTIONS: Mapping[str, tuple[Format, ...]] = {
    "encoding=": ("csv", "json", "fixed width"),
    "header=": ("csv", "excel", "fixed width"),
    "names=": ("csv", "excel"),
    "sheet=": ("excel",),
    "skip=": ("excel",),
    "rows=": ("xml",),
    "lists=": ("xml",),
    "widths=": ("fixed width",),
    "widths_in=": ("fixed width",),
}
"""The formats to which an option applies."""


def files(
    pattern: str | Path | Sequence[str | Path],
    *,
    format: Format | None = None,  # noqa: A002 - the usual term
    delimiter: str | None = None,
    null_values: Sequence[str] = ("",),
    encoding: str | None = None,
    header: bool | None = None,
    names: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    members: str = "",
    most_expansion: int = DEFAULT_EXPANSION.most,
    settled: str | timedelta = timedelta(),
    manifest: str | Path = "",
    changed: OnChange = "reread",
    vanished: OnVanish = "keep",
    order: Order = "location",
    required: bool = True,
    sheet: str | int | None = None,
    skip: int = 0,
    rows: str = "",
    lists: Sequence[str] = (),
    widths: Mapping[str, int] | None = None,
    widths_in: WidthUnit = "characters",
) -> Files:
    """Read every file that matches a path, a URI or a glob pattern, or one of several.

    A URI begins with `s3://`, `gs://`, `az://`, `sftp://`, `ftp://`, `ftps://`, `http://` or `https://`; HTTP has no
    patterns. `options` are those of the remote store; a credential is `env:NAME` or `file:PATH`.

    `format` is derived from the name by default. For CSV, the default `delimiter` is a comma, or a tab for `.tsv`, and
    the texts in `null_values` are read as null. CSV and JSON are UTF-8 unless `encoding` says otherwise.

    The first line of CSV is a header unless `header=False`. `names` are the columns by position; they require `header`,
    which is True if they replace the names of the header. `rename` maps names in the data, or in `names`, to names of
    the table, for all formats.

    Each file in a zip or tar archive is read on its own; `members` is a pattern of their names. A compressed file larger
    than 256 MB that expands to more than `most_expansion` times its size is an error.

    A file that changed less than `settled` ago waits, for example `"1 minute"`. With `manifest`, the path or a pattern of text
    files that list complete files, one in a line and relative to the folder of the list, other files wait. A file that changed
    after it was read makes all files be read again; with `changed="refuse"` it is an error, with `"keep"` its rows are kept. The
    rows of a file that `vanished` are kept; with `"refuse"` it is an error, with `"reread"` all other files are read again. It is
    an error that there has never been a file, unless `required=False`: then there are no rows until the first file arrives. New
    files are read in the order of their locations, or with `order="time"` of their last changes.

    For Excel, `sheet` is the name or the number of the sheet, and `skip` the number of rows above the header. For XML,
    `rows` is the name of the elements that are rows; `lists` are the names of children that are lists even if there is
    only one. `widths` are the columns of text with fixed widths, in `widths_in` characters or bytes.

    Raises `SourceError` for a name without a known format, a delimiter that is not one byte, an unknown encoding, and
    options that cannot be combined; `DefinitionError` for an unknown option, and for a URI with a password.
    """
    patterns = _patterns(pattern)
    _require_one_store((*patterns, str(manifest)) if manifest else patterns, options or {})
    kind, suffix = _format(patterns[0], members, "fixed width" if widths and format is None else format)
    given = {
        "encoding=": encoding is not None,
        "header=": header is not None,
        "names=": bool(names),
        "sheet=": sheet is not None,
        "skip=": bool(skip),
        "rows=": bool(rows),
        "lists=": bool(lists),
        "widths=": widths is not None,
        "widths_in=": widths_in != "characters",
    }
    _require_applicable(kind, [option for option in given if given[option]])
    if names and header is None:
        raise SourceError(
            "names= requires header=, because a first line that is mistaken for a header would be lost",
            do="pass header=False if the first line is a row, header=True if the names replace it",
        )
    chosen = delimiter or ("\t" if suffix == ".tsv" else ",")
    _require_texts(chosen, {"null_values=": null_values, "names=": names, "lists=": lists})
    if most_expansion < 1:
        raise SourceError("most_expansion= must be positive", got=repr(most_expansion))
    has_header = header is not False and (kind != "fixed width" or bool(header))
    naming = ColumnNames.of(names, tuple((rename or {}).items()))
    rules = DiscoveryRules(parse_duration(settled, "settled"), changed, vanished, order, required)
    _require_choices(rules)
    expansion = Expansion(most_expansion)
    conversions: Mapping[str, Callable[[], FileConversion]] = {
        "excel": lambda: _excel_sheet(sheet, skip, expansion),
        "xml": lambda: _xml_rows(rows, lists),
        "fixed width": lambda: _fixed_width(widths or {}, widths_in),
    }
    return Files(
        patterns,
        kind,
        Dialect(chosen, tuple(null_values), has_header, naming, encoding_of(encoding)),
        options=tuple(sorted((options or {}).items())),
        members=members,
        expansion=expansion,
        rules=rules,
        manifest=str(manifest),
        conversion=conversions[kind]() if kind in conversions else None,
    )


def _excel_sheet(sheet: str | int | None, skip: int, expansion: Expansion) -> ExcelSheet:
    if skip < 0 or (isinstance(sheet, int) and sheet < 1):
        raise SourceError("skip= must not be negative, and sheets are numbered from 1", got=f"{skip}, {sheet!r}")
    return ExcelSheet(sheet, skip, expansion)


def _xml_rows(rows: str, lists: Sequence[str]) -> XmlRows:
    if not rows:
        raise SourceError("XML files need rows=", do='pass the name of the elements that are rows: rows="order"')
    return XmlRows(rows, tuple(lists))


def _fixed_width(widths: Mapping[str, int], unit: WidthUnit) -> FixedWidth:
    if not widths or any(not isinstance(width, int) or width < 1 for width in widths.values()):
        do = 'pass the columns in order: widths={"id": 8, "name": 20}'
        raise SourceError("widths= must name columns with positive widths", got=repr(dict(widths)), do=do)
    if unit not in get_args(WidthUnit):
        raise SourceError(
            "widths_in= has an unknown value", got=repr(unit), do=did_you_mean(str(unit), get_args(WidthUnit))
        )
    return FixedWidth(tuple(widths.items()), unit)


def _require_choices(rules: DiscoveryRules) -> None:
    """Raise `SourceError` for a rule that does not exist."""
    for option, value, choices in (
        ("changed=", rules.changed, get_args(OnChange)),
        ("vanished=", rules.vanished, get_args(OnVanish)),
        ("order=", rules.order, get_args(Order)),
    ):
        if value not in choices:
            raise SourceError(f"{option} has an unknown value", got=repr(value), do=did_you_mean(str(value), choices))


def _patterns(pattern: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    patterns = (str(pattern),) if isinstance(pattern, str | Path) else tuple(map(str, pattern))
    if not patterns:
        raise SourceError("files() needs at least one path", do="pass a path, or a list of them")
    return patterns


def _format(pattern: str, members: str, given: Format | None) -> tuple[Format, str]:
    """Return the format of files, and the suffix from which it was derived."""
    name = pattern.partition("?")[0] if is_remote(pattern) else pattern
    suffix = _format_suffix(name) or _format_suffix(members)
    kind = given or _FORMATS.get(suffix)
    if kind is None or kind not in _FORMATS.values():
        known = ", ".join(sorted(set(_FORMATS.values())))
        raise SourceError(f"the format cannot be derived from the name {name!r}", do=f"pass format=, one of {known}")
    return kind, suffix


def _require_applicable(kind: Format, options: Sequence[str]) -> None:
    """Raise `SourceError` for an option of another format."""
    for option in options:
        formats = _OPTIONS[option]
        if kind not in formats:
            raise SourceError(
                f"{option} applies only to {_listed(formats)}",
                got=kind,
                do=f"remove {option}",
            )


def _listed(formats: Sequence[Format]) -> str:
    *others, last = [each.upper() for each in formats]
    return f"{', '.join(others)} and {last}" if others else last


def _require_texts(delimiter: str, texts: Mapping[str, Sequence[str]]) -> None:
    """Raise `SourceError` for a delimiter, null values or names that cannot be used."""
    if len(delimiter.encode()) != 1 or delimiter in {'"', "\n", "\r"}:
        raise SourceError("a delimiter must be one ASCII character, and not a quote", got=repr(delimiter))
    for option, values in texts.items():
        if isinstance(values, str):
            raise SourceError(f"{option} must be a list of texts", got=repr(values), do=f"write {option}[{values!r}]")
    null_values = texts["null_values="]
    if not null_values or any(delimiter in text or '"' in text for text in null_values):
        raise SourceError(
            "null_values= must be one or more texts without delimiters and quotes",
            got=repr(list(null_values)),
            do="use [''] if only empty fields are null",
        )


def _format_suffix(name: str) -> str:
    """Return the suffix of a name that says its format, for example `.csv` for `a.csv.gz`."""
    suffixes = [s.lower() for s in Path(name).suffixes if s.lower() not in (*COMPRESSED_SUFFIXES, ".tar", ".tgz")]
    return suffixes[-1] if suffixes else ""


def _require_one_store(patterns: Sequence[str], options: Mapping[str, str]) -> None:
    """Raise `DefinitionError` for patterns of several stores, and for invalid options."""
    clients = {RemoteClient.of(each, options) if is_remote(each) else None for each in patterns}
    schemes = {client and client.scheme for client in clients}
    if len(clients) > 1 and not schemes <= set(HTTP):
        raise DefinitionError(
            "all files of a source must be in one store", got=few(patterns), do="define one source for each store"
        )
    if schemes & set(HTTP) and any(set(each) & set("*[]") for each in patterns):
        raise DefinitionError(
            "HTTP servers cannot list files, so a URL cannot be a pattern",
            got=few(patterns),
            do="pass the list of URLs: files([…, …])",
        )
    if options and schemes == {None}:
        raise DefinitionError("options= applies only to remote files", got=few(patterns), do="remove options=")
