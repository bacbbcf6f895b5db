"""Settings from a file, the environment and secret files; errors name their line."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.core.cluster_settings import ClusterSettings
from pipeline.core.errors import SettingsError
from pipeline.core.settings import find, load

START = '[project]\nname = "flights"\ndefinitions = "flights.py"\n'


@pytest.fixture
def project(tmp_path):
    """Load a settings file whose first three lines are `[project]`, its name and its definitions."""

    def of(text="", *, start=START, env=None, **environ):
        (tmp_path / "headwater.toml").write_text(start + text)
        return load(tmp_path / "headwater.toml", environ=environ, env=env)

    return of


def test_defaults_are_beside_the_file(project, tmp_path):
    settings = project()
    assert (settings.name, settings.env, settings.definitions) == ("flights", "dev", tmp_path / "flights.py")
    assert settings.lake == str(tmp_path / ".headwater/lake")
    assert settings.catalog == f"sqlite:///{tmp_path}/.headwater/catalog.db"
    assert settings.state == tmp_path / ".headwater"
    assert (settings.execution, settings.inline_bytes, settings.memory_bytes) == ("auto", 1 << 30, None)


def test_name_of_a_project_defaults_to_its_folder(project, tmp_path):
    assert project(start='[project]\ndefinitions = "flights.py"\n').name == tmp_path.name


PROD = """
[env.dev]
lake = "lake"
[env.prod]
lake = "s3://acme/flights"
warehouse = "/data/w.duckdb"
catalog = "postgresql://headwater:${LOGIN}@db/headwater"
models = "sqlite:///models.db"
execution = "ray"
inline_bytes = 5
memory_bytes = 6
[env.prod.storage]
aws_region = "eu-west-1"
aws_secret_access_key = "${KEY}"
"""


def test_an_environment(project, tmp_path):
    settings = project(PROD, env="prod", LOGIN="s:e@cret", KEY="k")
    assert (settings.env, settings.lake, settings.warehouse) == ("prod", "s3://acme/flights", "/data/w.duckdb")
    assert settings.catalog == "postgresql://headwater:s:e@cret@db/headwater"
    assert settings.models == f"sqlite:///{tmp_path}/models.db"
    assert (settings.execution, settings.inline_bytes, settings.memory_bytes) == ("ray", 5, 6)
    assert settings.storage == {"aws_region": "eu-west-1", "aws_secret_access_key": "k"}


def test_only_the_selected_environment_is_read(project, tmp_path):
    assert project(PROD).lake == str(tmp_path / "lake")
    assert project(PROD, HEADWATER_ENV="prod", LOGIN="p", KEY="k").env == "prod"
    assert project(PROD, env="dev", HEADWATER_ENV="prod").env == "dev"


def test_environment_variables_override_the_file(project, tmp_path):
    settings = project(
        PROD,
        HEADWATER_LAKE="other",
        HEADWATER_WAREHOUSE="",
        HEADWATER_CATALOG="postgresql://me:plain@db/x",
        HEADWATER_MODELS="sqlite:///:memory:",
        HEADWATER_ONLINE="redis://host:1/0",
        HEADWATER_EXECUTION="inline",
    )
    assert settings.lake == str(tmp_path / "other")
    assert settings.warehouse == str(tmp_path / ".headwater/warehouse.duckdb")
    assert settings.catalog == "postgresql://me:plain@db/x"  # allowed, because it is not in a file
    assert settings.models == "sqlite:///:memory:"
    assert settings.online == "redis://host:1/0"
    assert settings.execution == "inline"


def test_secrets_from_files(project, tmp_path):
    (tmp_path / "secret").write_text("hidden\n")
    (tmp_path / "elsewhere").write_text("far")
    text = '[env.dev]\ncatalog = "postgresql://u:${file:secret}@db/x"\nlake = "${file:%s}"' % (tmp_path / "elsewhere")
    settings = project(text)
    assert settings.catalog == "postgresql://u:hidden@db/x"
    assert settings.lake == str(tmp_path / "far")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[env.dev\n", 4, "not valid TOML: got "),
        ("[envs.dev]\n", 4, "unknown table 'envs'; did you mean 'env'?"),
        ("[env.dev]\n\nlakes = 'x'\n", 6, "unknown key 'lakes'; did you mean 'lake'?"),
        ("[env.other]\nlake = 3\n[env.dev]\nlake = 3\n", 7, "'lake' must be text: got 3"),
        ("[env.dev]\nexecution = 'fast'\n", 5, "unknown execution: got 'fast'; choose one of 'auto', 'inline', 'ray'"),
        ("[env.dev]\nexecution = ['ray']\n", 5, "unknown execution: got ['ray']"),
        ("[env.dev]\ninline_bytes = '1 GB'\n", 5, "'inline_bytes' must be a number of bytes: got '1 GB'"),
        ("[env.dev]\ninline_bytes = true\n", 5, "'inline_bytes' must be a number of bytes: got True"),
        ("[env.dev]\nmemory_bytes = 0\n", 5, "'memory_bytes' must be positive: got 0"),
        ("[env.dev]\nmemory_bytes = 0.5\n", 5, "'memory_bytes' must be a number of bytes: got 0.5"),
        ("[env.dev]\nstorage = 'x'\n", 5, "'storage' must be a table of text: got 'x'"),
        ("[env.dev]\nlake = 'x'\n[env.dev.storage]\naws_allow_http = true\n", 6, "'aws_allow_http' must be text: got True"),
        ("[env.dev]\n[env.dev.storage]\nAWS_REGOIN = 'x'\n", 5, "unknown option of the object store: got 'AWS_REGOIN'; did you mean 'region'"),
        ("[env.dev]\n[env.dev.storage]\nretry_timeout = '1s'\n", 5, "unknown option of the object store: got 'retry_timeout'"),
        ("[env.dev]\nlake = 's3://${BUCKET}/x'\n", 5, "the environment variable 'BUCKET' is not set; set it"),
        ("[env.dev]\nlake = '${file:nowhere}'\n", 5, "cannot read the secret file 'nowhere': got "),
        ("[env]\ndev = 3\n", 5, "'dev' must be a table: got 3"),
        ("env = 3\n", None, "unknown key 'env'"),  # it belongs to [project]
        ("[env.dev]\ncatalog = 'postgresql://[u@db/x'\n", 5, "'catalog' is not a URL: got "),
        ("[env.dev]\nlake = ''\n", 5, "'lake' is empty; remove it to use the default"),
        ("[env.dev]\nmodels = 'mlruns'\n", 5, "'models' must be a URL: got 'mlruns'; for a local file: models = \"sqlite"),
        ("[env.dev.serve]\nredis_url = 'redis://:open@h/0'\n", None, "'serve.redis_url' contains a password in plain text"),
        ("[env.dev.serve]\nredis_url = 'http://h/0'\n", None, "'serve.redis_url' must be the address of a Redis or Valkey server: got 'http'"),
        ("[env.dev.serve]\nredis_secret = '0123456789abcdef'\n", None, "'serve.redis_secret' contains a password in plain text"),
        ("[env.dev.serve]\nredis_secret = '${file:short}'\n", None, "'serve.redis_secret' is too short: got 5 characters"),
        ("[env.dev.serve.routes.tabels]\ncost = 2\n", None, "unknown endpoints 'serve.routes.tabels'; did you mean 'tables'?"),
        ("[env.dev.serve.routes.query]\ncosts = 2\n", None, "unknown key 'serve.routes.query.costs'; did you mean 'cost'?"),
        ("[env.dev.serve.routes.query]\nburst = 2\n", None, "'serve.routes.query.burst' needs 'serve.routes.query.requests_per_second'"),
        ("[env.dev.serve.routes.query]\ncost = 201\n", None, "exceeds 'serve.burst', so no such request would be answered: got 201 > 200"),
        ("[env.dev.serve.quotas]\nstaff = 0\n", None, "'serve.quotas.staff' must be positive: got 0"),
    ],
)  # fmt: skip
def test_errors_name_their_line(project, tmp_path, text, line, words):
    (tmp_path / "short").write_text("short")
    with pytest.raises(SettingsError, match=re.escape(words)) as caught:
        project(text)
    assert caught.value.place.file == str(tmp_path / "headwater.toml")
    assert line is None or caught.value.place.line == line


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("", "[project] has no key 'definitions'"),
        ("[project]\nname = 'x'\n", "[project] has no key 'definitions'"),
        ("[project]\ndefinition = 'x'\n", "unknown key 'definition'; did you mean 'definitions'?"),
        ("[project]\ndefinitions = ['x']\n", "'definitions' must be text: got ['x']"),
        ("[project]\nname = 3\ndefinitions = 'x'\n", "'name' must be text: got 3"),
        ("project = 3\n", "'project' must be a table: got 3"),
        ("env = 3\n[project]\ndefinitions = 'x'\n", "'env' must be a table: got 3"),
    ],
)
def test_errors_in_the_project_section(project, start, words):
    with pytest.raises(SettingsError, match=re.escape(words)):
        project(start=start)


@pytest.mark.parametrize(
    "written",
    [
        'catalog = "postgresql://u:secret@db/x"',
        '"catalog" = "postgresql://u:secret@db/x"',
        'catalog = "postgresql://u:secret@${HOST}/x"',
        'catalog = "postgresql://u:secret@db/x?application_name=a:${HOST}"',
        'catalog = "postgresql://u@db/x?password=secret"',
        'lake = "s3://key:secret@bucket/x"',
        'storage = { aws_secret_access_key = "secret" }',
        'storage = { azure_storage_account_key = "secret" }',
        'storage = { aws_session_token = "secret" }',
    ],
)
def test_plain_text_password_is_rejected_and_not_shown(project, written):
    with pytest.raises(
        SettingsError, match=r"contains a password in plain text; use \$\{NAME\} or \$\{file:/path\} instead"
    ) as caught:
        project(f"[env.dev]\n{written}\n", HOST="h")
    assert "'secret'" not in str(caught.value)
    assert "u:secret" not in str(caught.value)
    assert caught.value.place.line == 5


@pytest.mark.parametrize(
    "written",
    [
        'catalog = "postgresql://u:${P}@db/x"',
        'catalog = "postgresql://u:${P}@${P}/x?password=${P}"',
        'catalog = "postgresql://u@db/x"',
        'storage = { aws_secret_access_key = "${P}" }',
    ],
)
def test_a_reference_is_not_plain_text(project, written):
    assert project(f"[env.dev]\n{written}\n", P="p").env == "dev"


def test_an_error_in_a_variable_names_the_variable(project):
    with pytest.raises(SettingsError, match=r"got 'fast'.*\(the environment variable HEADWATER_EXECUTION\)"):
        project("[env.dev]\nexecution = 'ray'\n", HEADWATER_EXECUTION="fast")


def test_unknown_environment(project):
    with pytest.raises(SettingsError, match=r"there is no environment 'prd'; did you mean 'prod'\?"):
        project(PROD, env="prd")
    with pytest.raises(SettingsError, match="there is no environment 'prod'; none is defined yet"):
        project(env="prod")


def test_unreadable_settings_file(tmp_path):
    with pytest.raises(SettingsError, match=r"cannot read the settings: got .*No such file"):
        load(tmp_path / "headwater.toml", environ={})
    (tmp_path / "headwater.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="cannot read the settings: got 'utf-8' codec"):
        load(tmp_path / "headwater.toml", environ={})


def test_secret_file_that_is_not_text(project, tmp_path):
    (tmp_path / "secret").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="cannot read the secret file 'secret': got 'utf-8' codec"):
        project("[env.dev]\nlake = '${file:secret}'\n")


def test_the_nearest_file_is_found(tmp_path):
    (tmp_path / "headwater.toml").touch()
    (tmp_path / "a/b").mkdir(parents=True)
    assert find(tmp_path / "a/b") == tmp_path / "headwater.toml"
    with pytest.raises(
        SettingsError, match=r"there is no headwater.toml in .* or its parent folders; run this inside a project"
    ):
        find(Path("/"))


def test_what_runs_ask_of_a_cluster(project):
    asked = project("""
[env.dev.cluster]
deadline = "4h"
min_cpus = 4
max_cpus = 64
task_memory_bytes = 2_000_000_000
resources = { batch = 0.5 }
cost_per_hour = { worker = 0.4, large = 2 }
""").cluster
    assert (asked.deadline, asked.min_cpus, asked.max_cpus) == (timedelta(hours=4), 4, 64)
    assert (asked.task_memory_bytes, asked.resources) == (2_000_000_000, {"batch": 0.5})
    assert asked.cost_per_hour == {"worker": 0.4, "large": 2.0}
    assert project().cluster == ClusterSettings()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('dead_line = "4h"', "unknown key 'cluster.dead_line'; did you mean 'deadline'?"),
        ("deadline = 4", "'cluster.deadline' must be a duration such as '4h': got 4"),
        ('deadline = "soon"', "'cluster.deadline' is not a duration: got 'soon'"),
        ('deadline = "0 s"', "'cluster.deadline' must be positive: got '0 s'"),
        ("min_cpus = 0", "'cluster.min_cpus' must be positive: got 0"),
        ("max_cpus = 1.5", "'cluster.max_cpus' must be a number of cores: got 1.5"),
        ("min_cpus = 9\nmax_cpus = 8", "'cluster.min_cpus' is larger than 'cluster.max_cpus': got 9 and 8"),
        ("task_memory_bytes = true", "'cluster.task_memory_bytes' must be a number of bytes: got True"),
        ("resources = { gpu = -1 }", "'cluster.resources.gpu' must be a number of 0 or more: got -1"),
        (
            'cost_per_hour = { worker = "0.4" }',
            "'cluster.cost_per_hour.worker' must be a number of 0 or more: got '0.4'",
        ),
        ("stream_worker_cpus = 0.0", "'cluster.stream_worker_cpus' must be positive: got 0.0"),
        ("stream_worker_cpus = nan", "'cluster.stream_worker_cpus' must be positive: got nan"),
        ("stream_worker_cpus = '1'", "'cluster.stream_worker_cpus' must be a number of cores: got '1'"),
        (
            "stream_worker_cpus = 1.5",
            "'cluster.stream_worker_cpus' must be a whole number if it is more than 1: got 1.5",
        ),
        ("resources = { CPU = 2 }", "'cluster.resources.CPU' is not a custom resource: got 2"),
        (
            "resources = { memory = 5 }",
            "'cluster.resources.memory' is not a custom resource: got 5; set task_memory_bytes",
        ),
        ("resources = 3", "'cluster.resources' must be a table of numbers: got 3"),
    ],
)
def test_errors_of_the_cluster_table(project, line, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        project(f"[env.dev.cluster]\n{line}\n")
