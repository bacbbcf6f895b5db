"""The settings of a project, read from `headwater.toml` and the environment.

    [project]
    name = "flights"
    definitions = "flights.py"        # a file, or a package

    [env.dev]                         # the default; select another with --env or HEADWATER_ENV
    lake = ".headwater/lake"

    [env.prod]
    lake = "s3://acme-lake/flights"
    catalog = "postgresql+psycopg://headwater:${CATALOG_PASSWORD}@db/headwater"

`${NAME}` is replaced by an environment variable, `${file:/run/secrets/name}` by the content of a file. Passwords in
plain text are rejected. `HEADWATER_LAKE`, `HEADWATER_WAREHOUSE`, `HEADWATER_CATALOG`, `HEADWATER_MODELS`, `HEADWATER_ONLINE`
and `HEADWATER_EXECUTION` override the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import parse_qsl, urlsplit

from pipeline.core.cluster_settings import ClusterSettings, cluster_settings
from pipeline.core.credentials import is_reference
from pipeline.core.errors import Place, SettingsError, did_you_mean
from pipeline.core.execution import Execution
from pipeline.core.object_store_options import LAKE_OPTIONS, aws_options
from pipeline.core.serve_settings import ServeSettings, serve_settings
from pipeline.core.setting_values import positive, typed

FILE = "headwater.toml"
NAME = "HEADWATER_PROJECT_NAME"
"""The environment variable with the name of a project without one, whose folder has another name in a job."""
_TABLES: Mapping[str, Callable[[Mapping[str, object], Place], object]] = {
    "cluster": cluster_settings,
    "serve": serve_settings,
}
_REFERENCE = re.compile(r"\$\{(file:)?([^}]+)\}")
_MASK = "headwater-reference"
_SECRET = re.compile(r"secret|passw|pwd|token|account_key|private_key|sas_key", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """One environment of a project. Relative paths are resolved against the folder of `headwater.toml`."""

    name: str
    root: Path
    definitions: Path
    env: str = "dev"
    lake: str = ".headwater/lake"
    warehouse: str = ".headwater/warehouse.duckdb"
    catalog: str = "sqlite:///.headwater/catalog.db"
    models: str = "sqlite:///.headwater/mlflow.db"
    online: str = "sqlite:///.headwater/features.db"
    execution: Execution = "auto"
    inline_bytes: int = 1 << 30
    memory_bytes: int | None = None
    spill_bytes: int | None = None
    """The spill limit of all engines together; by default half of the free disk space."""
    cache_bytes: int = 1 << 30
    """The disk space for files of a lake on S3 that were read, in `.headwater/cache`; 0: none are cached."""
    query_seconds: int = 600
    """The timeout of `headwater query`, in seconds."""
    warehouse_seconds: int = 20
    """How often streams load their gold tables into the warehouse, in seconds; 0: after every epoch."""
    storage: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    """The ARN of each role that policies of lake tables name."""
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    serve: ServeSettings = field(default_factory=ServeSettings)
    ray_address: str = ""
    """The value of the environment variable `RAY_ADDRESS`; empty if it is not set."""

    @property
    def state(self) -> Path:
        """The folder for local files that can be recreated, for example the report."""
        return self.root / ".headwater"


_KEYS = tuple(f.name for f in fields(Settings) if f.name not in {"name", "root", "definitions", "env", "ray_address"})
_URLS = ("catalog", "models", "online")
_TEXT = ("lake", "warehouse", *_URLS)


def find(start: Path) -> Path:
    """Return the nearest `headwater.toml` in `start` or its parent folders; raise `SettingsError` if there is none."""
    for folder in [start.resolve(), *start.resolve().parents]:
        if (folder / FILE).is_file():
            return folder / FILE
    raise SettingsError(
        f"there is no {FILE} in {start.resolve()} or its parent folders",
        do="run this inside a project, or create one with `headwater init NAME`",
    )


def environments(file: Path) -> tuple[str, ...]:
    """Return the names of the environments of a settings file, in its order; `dev` if it has none.

    Raises `SettingsError` for invalid TOML.
    """
    known = _parse(_read(file), file).get("env", {})
    return tuple(known) if isinstance(known, dict) and known else ("dev",)


def load(file: Path, *, environ: Mapping[str, str] | None = None, env: str | None = None) -> Settings:
    """Read one environment of a project.

    Raises `SettingsError` for invalid TOML, an unknown key or environment, a value of the wrong type, a missing
    variable, and a password in plain text; with the file and line if they are known.
    """
    environ = os.environ if environ is None else environ
    text = _read(file)
    written = _Written(file, text)
    document = _parse(text, file)
    _known(document, ("project", "env"), written, "table")
    project = typed("project", document.get("project", {}), dict, "a table", written.place("project"))
    _known(project, ("name", "definitions"), written, "key")
    for key, value in project.items():
        typed(key, value, str, "text", written.place(key))
    if "definitions" not in project:
        raise SettingsError(
            "[project] has no key 'definitions'",
            do='add `definitions = "flights.py"` with the name of your file or package',
            place=Place(str(file)),
        )
    chosen = env or environ.get("HEADWATER_ENV") or "dev"
    root = file.resolve().parent
    values = {
        key: _checked(_Value(key, value, written.place(key, chosen), root, environ))
        for key, value in _environment(document.get("env", {}), chosen, written).items()
    }
    for key in (*_TEXT, "execution"):
        variable = f"HEADWATER_{key.upper()}"
        if environ.get(variable):
            override = _Value(
                key, environ[variable], Place(f"the environment variable {variable}"), root, environ, in_file=False
            )
            values[key] = _checked(override)
    settings = Settings(
        name=project.get("name") or environ.get(NAME) or root.name,
        root=root,
        definitions=root / project["definitions"],
        env=chosen,
        ray_address=environ.get("RAY_ADDRESS", ""),
        **values,
    )
    return _absolute(settings)


@dataclass(frozen=True)
class _Written:
    """The text of a settings file, for finding the line of a key."""

    file: Path
    text: str

    def place(self, key: str, env: str | None = None) -> Place:
        """Return the place of a key or table, within the section of an environment if one is given."""
        pattern = re.compile(rf"""^\s*\[?\s*(\w+\.)*["']?{re.escape(key)}\b""")
        section = re.compile(rf"""^\s*\[\s*env\s*\.\s*["']?{re.escape(env or "")}["']?\s*[.\]]""")
        lines = self.text.splitlines()
        start = 0 if env is None else next((n for n, line in enumerate(lines) if section.match(line)), 0)
        for number in range(start, len(lines)):
            if pattern.match(lines[number]):
                return Place(str(self.file), number + 1)
        return Place(str(self.file))


@dataclass(frozen=True)
class _Value:
    """A value as written, its place, and the environment for its references."""

    key: str
    value: object
    place: Place
    root: Path
    environ: Mapping[str, str]
    in_file: bool = True
    """Whether the value is in the settings file, which must not contain passwords."""


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("cannot read the settings", got=str(error), place=Place(str(file))) from error


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line_match = re.search(r"line (\d+)", str(error))
        line = int(line_match[1]) if line_match else None
        raise SettingsError("not valid TOML", got=str(error), place=Place(str(file), line)) from error


def _environment(environments: object, chosen: str, written: _Written) -> dict[str, Any]:
    known = typed("env", environments, dict, "a table", written.place("env"))
    if chosen not in known and (known or chosen != "dev"):
        raise SettingsError(
            f"there is no environment {chosen!r}", do=did_you_mean(chosen, known), place=Place(str(written.file))
        )
    values = typed(chosen, known.get(chosen, {}), dict, "a table", written.place(chosen))
    _known(values, _KEYS, written, "key", chosen)
    return values


def _known(
    section: Mapping[str, Any], known: tuple[str, ...], written: _Written, word: str, env: str | None = None
) -> None:
    for key in section:
        if key not in known:
            raise SettingsError(f"unknown {word} {key!r}", do=did_you_mean(key, known), place=written.place(key, env))


def _checked(setting: _Value) -> Any:
    key, value, place = setting.key, setting.value, setting.place
    if key in _TEXT:
        text = _secretless(setting, typed(key, value, str, "text", place))
        if not text:
            raise SettingsError(f"{key!r} is empty", do="remove it to use the default", place=place)
        if key in _URLS and "://" not in text:
            raise SettingsError(
                f"{key!r} must be a URL", got=repr(text), do=f'for a local file: {key} = "sqlite:///FILE"', place=place
            )
        return text
    if key == "execution":
        if value not in get_args(Execution):
            known = ", ".join(repr(word) for word in get_args(Execution))
            raise SettingsError("unknown execution", got=repr(value), do=f"choose one of {known}", place=place)
        return cast("Execution", value)
    if key == "roles":
        roles = typed(key, value, dict, "a table of ARNs", place)
        return {name: _expanded(setting, typed(name, arn, str, "text", place)) for name, arn in roles.items()}
    if key == "storage":
        return _storage(setting, typed(key, value, dict, "a table of text", place))
    if key == "serve":
        value = _served(setting, typed(key, value, dict, "a table", place))
    if key in _TABLES:
        return _TABLES[key](typed(key, value, dict, "a table", place), place)
    least = 0 if key in {"warehouse_seconds", "cache_bytes"} else 1
    return positive(key, value, f"a number of {key.rpartition('_')[2]}", place, least=least)


def _served(setting: _Value, values: Mapping[str, object]) -> dict[str, object]:
    """Return the values of `serve` with the references of those replaced that have secrets."""
    expanded = dict(values)
    for name in ("redis_url", "redis_secret", "oidc_client_secret"):
        text = values.get(name)
        if isinstance(text, str):
            if _SECRET.search(name) and not _REFERENCE.fullmatch(text):
                raise _plain(f"serve.{name}", setting.place)
            expanded[name] = _secretless(replace(setting, key=f"serve.{name}"), text)
    return expanded


def _storage(setting: _Value, options: Mapping[str, object]) -> dict[str, str]:
    expanded = {}
    for name, value in options.items():
        text = typed(name, value, str, "text", setting.place)
        if _SECRET.search(name) and not _REFERENCE.search(text):
            raise _plain(name, setting.place)
        if not aws_options({name: text}).keys() <= set(LAKE_OPTIONS):
            do = did_you_mean(name.lower().removeprefix("aws_"), LAKE_OPTIONS)
            raise SettingsError("unknown option of the object store", got=repr(name), do=do, place=setting.place)
        expanded[name] = _expanded(setting, text)
    return expanded


def _secretless(setting: _Value, text: str) -> str:
    """Return a path or URL with its references replaced; a password must be a reference."""
    if setting.in_file and "://" in text:
        try:
            url = urlsplit(_REFERENCE.sub(_MASK, text))
        except ValueError as error:
            raise SettingsError(f"{setting.key!r} is not a URL", got=str(error), place=setting.place) from error
        secrets = [url.password or "", *(value for name, value in parse_qsl(url.query) if _SECRET.search(name))]
        takes_names = setting.key == "warehouse"  # it looks up env:NAME and file:PATH itself
        if any(secret and _MASK not in secret and not (takes_names and is_reference(secret)) for secret in secrets):
            raise _plain(setting.key, setting.place)
    return _expanded(setting, text)


def _plain(key: str, place: Place) -> SettingsError:
    return SettingsError(
        f"{key!r} contains a password in plain text", do="use ${NAME} or ${file:/path} instead", place=place
    )


def _expanded(setting: _Value, text: str) -> str:
    def replaced(match: re.Match[str]) -> str:
        name = match[2]
        if match[1]:
            try:
                return (setting.root / name).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(
                    f"cannot read the secret file {name!r}", got=str(error), place=setting.place
                ) from error
        if name not in setting.environ:
            raise SettingsError(f"the environment variable {name!r} is not set", do="set it", place=setting.place)
        return setting.environ[name]

    return _REFERENCE.sub(replaced, text)


def _absolute(settings: Settings) -> Settings:
    def path(value: str) -> str:
        return value if "://" in value else str(settings.root / value)

    def url(value: str) -> str:
        prefix = "sqlite:///"
        if value.startswith(prefix) and value != f"{prefix}:memory:":
            return prefix + str(settings.root / value.removeprefix(prefix))
        return value

    changed = {"lake": path(settings.lake), "warehouse": path(settings.warehouse)}
    changed |= {key: url(getattr(settings, key)) for key in _URLS}
    return Settings(**{**{f.name: getattr(settings, f.name) for f in fields(settings)}, **changed})
