"""The model store: MLflow's tables in a database, or an MLflow server. Only this module and the registry use its client."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from ml.models.registry.stored_models import quiet_mlflow
from pipeline.core.errors import HeadwaterError, StorageError

_TIMEOUT_S = 5


class ModelStore:
    """The model store at a URL: `sqlite:///…` or another database, or an MLflow server's `http(s)://…`."""

    def __init__(self, url: str) -> None:
        """Create the store without opening it."""
        self.url = url
        self.is_database = not url.startswith(("http://", "https://"))
        """Whether its tables can be read without MLflow's client, which takes four seconds to start."""

    def rows(self, table: str, query: sa.TextClause, values: Mapping[str, str]) -> list[tuple[Any, ...]]:
        """Return the rows of a query of MLflow's tables; none if the tables do not exist."""
        url = sa.make_url(self.url)
        if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
            return []
        engine = sa.create_engine(url)
        try:
            with engine.connect() as connection:
                if not sa.inspect(connection).has_table(table):
                    return []
                return [tuple(row) for row in connection.execute(query, values)]
        finally:
            engine.dispose()

    def client(self) -> Any:
        """Return MLflow's client after a quick check of the store, because MLflow retries for minutes."""
        self.open()
        mlflow = quiet_mlflow()
        return mlflow.MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    def open(self) -> None:
        """Raise an error unless the store can be reached. The folder of a SQLite database is created."""
        if not self.is_database:
            _answers(self.url)
            return
        url = sa.make_url(self.url)
        if url.get_backend_name() == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url)
        try:
            engine.connect().close()
        finally:
            engine.dispose()

    def experiment(self, client: Any, name: str) -> str:
        """Return the id of a model's experiment, which is created if it does not exist."""
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        url = sa.make_url(self.url) if self.is_database else None
        if url is None or url.get_backend_name() != "sqlite" or not url.database:
            return str(client.create_experiment(name))
        folder = Path(url.database).resolve().with_suffix("")  # next to mlflow.db, in mlflow/
        return str(client.create_experiment(name, artifact_location=(folder / name).as_uri()))

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Translate errors of MLflow or its database to `StorageError`."""
        try:
            yield
        except HeadwaterError:
            raise
        except Exception as error:
            raise StorageError(
                f"the model store {_shown(self.url)} cannot be used",
                got=str(error).strip().partition("\n")[0] or type(error).__name__,
                do="check `models` in headwater.toml and that the store is available, and run again",
            ) from error


def _answers(store: str) -> None:
    """Raise unless the server answers. A wrong or missing password is reported later by MLflow."""
    try:
        urllib.request.urlopen(f"{_shown(store).rstrip('/')}/health", timeout=_TIMEOUT_S).close()  # noqa: S310 - HTTP here
    except urllib.error.HTTPError:
        return


def _shown(store: str) -> str:
    """Return the URL without user and password."""
    parts = urlsplit(store)
    return store.replace(parts.netloc, parts.netloc.rpartition("@")[2]) if "@" in parts.netloc else store
