"""Where a project keeps its things, read from `headwater.toml` and the environment.

    [project]
    name = "flights"
    definitions = "flights.py"        # a file, or a package

    [env.dev]                         # used unless --env or HEADWATER_ENV says otherwise
    lake = ".headwater/lake"

    [env.prod]
    lake = "s3://acme-lake/flights"
    catalog = "postgresql+psycopg://headwater:${CATALOG_PASSWORD}@db/headwater"

`${NAME}` is taken from the environment, `${file:/run/secrets/name}` from a file. A password written into
the file itself is refused. `HEADWATER_LAKE`, `HEADWATER_WAREHOUSE`, `HEADWATER_CATALOG`, `HEADWATER_MODELS`
and `HEADWATER_EXECUTION` win over the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast, get_args
from urllib.parse import urlsplit

from pipeline.core.errors import Place, SettingsError, did_you_mean
from pipeline.core.execution import Execution

FILE = "headwater.toml"
T = TypeVar("T")
_REFERENCE = re.compile(r"\$\{(file:)?([^}]+)\}")


@dataclass(frozen=True)
class Settings:
    """One environment of a project. Relative paths are made absolute beside `headwater.toml`."""

    name: str
    root: Path
    definitions: Path
    env: str = "dev"
    lake: str = ".headwater/lake"
    warehouse: str = ".headwater/warehouse.duckdb"
    catalog: str = "sqlite:///.headwater/catalog.db"
    models: str = "sqlite:///.headwater/mlflow.db"
    execution: Execution = "auto"
    inline_bytes: int = 1 << 30
    memory_bytes: int | None = None
    storage: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        """The folder for what is made on this machine and can be made again, for example the report."""
        return self.root / ".headwater"


_KEYS = tuple(f.name for f in fields(Settings) if f.name not in {"name", "root", "definitions", "env"})
_TEXT = ("lake", "warehouse", "catalog", "models")


def find(start: Path) -> Path:
    """Return the nearest `headwater.toml` at or above `start`; raise `SettingsError` when there is none."""
    for folder in [start.resolve(), *start.resolve().parents]:
        if (folder / FILE).is_file():
            return folder / FILE
    raise SettingsError(
        f"there is no {FILE} in {start.resolve()} or above it",
        do="run this inside a project, or make one with `headwater init NAME`",
    )


def load(file: Path, *, environ: Mapping[str, str] | None = None, env: str | None = None) -> Settings:
    """Read one environment of a project.

    Raises `SettingsError`, naming the file and line where it can, for a file that is not TOML, an unknown key
    or environment, a value of the wrong type, a missing variable or a password in plain text.
    """
    environ = os.environ if environ is None else environ
    text = _read(file)
    document = _parse(text, file)
    _known(document, ("project", "env"), file, text, "table")
    project = document.get("project", {})
    _known(project, ("name", "definitions"), file, text, "key")
    if "definitions" not in project:
        raise SettingsError(
            "[project] does not say where the definitions are",
            do='add `definitions = "flights.py"` with your file or package',
            place=Place(str(file)),
        )
    chosen = env or environ.get("HEADWATER_ENV") or "dev"
    values = _environment(document.get("env", {}), chosen, file)
    _known(values, _KEYS, file, text, "key")
    for key in ("lake", "warehouse", "catalog", "models", "execution"):
        if (value := environ.get(f"HEADWATER_{key.upper()}")) is not None:
            values[key] = value
    for key, value in values.items():
        values[key] = _checked(key, value, _place(key, file, text), environ)
    root = file.resolve().parent
    settings = Settings(
        name=str(project.get("name", root.name)),
        root=root,
        definitions=root / str(project["definitions"]),
        env=chosen,
        **values,
    )
    return _absolute(settings)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("cannot read the settings", got=str(error), place=Place(str(file))) from error


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else None
        raise SettingsError("not valid TOML", got=str(error), place=Place(str(file), line)) from error


def _environment(environments: Mapping[str, Any], chosen: str, file: Path) -> dict[str, Any]:
    if chosen not in environments and (environments or chosen != "dev"):
        raise SettingsError(
            f"there is no environment {chosen!r}", do=did_you_mean(chosen, environments), place=Place(str(file))
        )
    return dict(environments.get(chosen, {}))


def _known(found: Mapping[str, Any], known: tuple[str, ...], file: Path, text: str, word: str) -> None:
    for key in found:
        if key not in known:
            raise SettingsError(f"unknown {word} {key!r}", do=did_you_mean(key, known), place=_place(key, file, text))


def _place(key: str, file: Path, text: str) -> Place:
    pattern = re.compile(rf"^\s*\[?\s*(\w+\.)?{re.escape(key)}\b")
    for number, line in enumerate(text.splitlines(), start=1):
        if pattern.match(line):
            return Place(str(file), number)
    return Place(str(file))


def _checked(key: str, value: object, place: Place, environ: Mapping[str, str]) -> Any:
    if key in _TEXT:
        return _secretless(key, _typed(key, value, str, "text", place), place, environ)
    if key == "execution":
        if value not in get_args(Execution):
            known = ", ".join(repr(word) for word in get_args(Execution))
            raise SettingsError("unknown execution", got=repr(value), do=f"choose one of {known}", place=place)
        return cast("Execution", value)
    if key == "storage":
        options = _typed(key, value, dict, "a table of text", place)
        return {name: _expanded(str(text), place, environ) for name, text in options.items()}
    number = _typed(key, value, int, "a number of bytes", place)
    if number <= 0:
        raise SettingsError(f"{key!r} must be above 0", got=repr(number), place=place)
    return number


def _typed(key: str, value: object, kind: type[T], words: str, place: Place) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise SettingsError(f"{key!r} must be {words}", got=repr(value), place=place)
    return value


def _secretless(key: str, value: str, place: Place, environ: Mapping[str, str]) -> str:
    if "://" in value:
        password = urlsplit(_REFERENCE.sub("x", value) if _REFERENCE.search(value) else value).password
        if password is not None and not re.search(r":[^@/]*\$\{", value) and place.line is not None:
            raise SettingsError(
                f"{key!r} holds a password in plain text",
                do="write ${NAME} or ${file:/path} in its place",
                place=place,
            )
    return _expanded(value, place, environ)


def _expanded(value: str, place: Place, environ: Mapping[str, str]) -> str:
    def replaced(match: re.Match[str]) -> str:
        name = match[2]
        if match[1]:
            try:
                return Path(name).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise SettingsError(f"cannot read the secret file {name!r}", got=str(error), place=place) from error
        if name not in environ:
            raise SettingsError(f"the environment variable {name!r} is not set", do="set it", place=place)
        return environ[name]

    return _REFERENCE.sub(replaced, value)


def _absolute(settings: Settings) -> Settings:
    def path(value: str) -> str:
        return value if "://" in value else str(settings.root / value)

    def url(value: str) -> str:
        prefix = "sqlite:///"
        if value.startswith(prefix):
            return prefix + str(settings.root / value.removeprefix(prefix))
        return value

    changed = {"lake": path(settings.lake), "warehouse": path(settings.warehouse)}
    changed |= {"catalog": url(settings.catalog), "models": url(settings.models)}
    return Settings(**{**{f.name: getattr(settings, f.name) for f in fields(settings)}, **changed})
