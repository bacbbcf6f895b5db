"""The components that requests use, opened together and closed together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.definitions import Artifact, Layer
from pipeline.core.extras import imports_of
from pipeline.core.serve_settings import ServeSettings
from pipeline.governance.api_keys import ApiKeys
from pipeline.governance.sessions import SessionStore
from pipeline.kernel.pool import Limits
from pipeline.project.project import Project
from pipeline.project.workspace import Workspace
from serve.access.admission import Admission
from serve.access.audit import AuditLog
from serve.access.authentication import Authenticator, KeyRing, TokenVerifier
from serve.access.authorization import Authorizer
from serve.access.certificates import Certificates
from serve.access.fair_queue import FairQueue
from serve.access.request_limits import RequestLimits
from serve.access.response_cache import ResponseCache
from serve.access.sessions import BrowserSessions
from serve.access.signed_urls import SignedUrls
from serve.background.queries import BackgroundQueries
from serve.background.store import QueryStore
from serve.exported_files import ExportedFiles
from serve.features.entities import FeatureViews
from serve.features.lookup import FeatureLookup
from serve.hot_tables import HotTables
from serve.metrics.queries import MetricQueries
from serve.predictions.models import ServedModels
from serve.predictions.service import PredictionService
from serve.problems import SHARING
from serve.queries.engine import Engine
from serve.reading import Reading
from serve.related import RelatedTables
from serve.tables import Tables

if TYPE_CHECKING:
    from serve.access.provider_login import ProviderLogin
    from serve.access.shared_state import SharedState

_BACKGROUND_PART = 4
"""Queries in the background get this part of the memory in addition."""
_MOST_WAITING = 512
"""How many queries of a replica wait for their turn; further ones are refused."""


@dataclass(frozen=True)
class Backend:
    """The components that requests use."""

    project: Project
    workspace: Workspace
    reading: Reading
    models: ServedModels
    features: FeatureLookup
    views: FeatureViews
    predictions: PredictionService
    admission: Admission
    sessions: BrowserSessions
    login: ProviderLogin | None
    """Where people sign in with an identity provider."""
    audit: AuditLog
    cache: ResponseCache
    exports: ExportedFiles
    signatures: SignedUrls
    shared: SharedState | None
    """What is shared with other replicas."""
    background: BackgroundQueries | None
    """`None` if there are no queries in the background."""

    @property
    def tables(self) -> Tables:
        """The tables that are served."""
        return self.reading.tables

    @property
    def engine(self) -> Engine:
        """The engine of all queries."""
        return self.reading.engine

    def close(self) -> None:
        """Write what waits, and close all."""
        self.predictions.close()
        self.features.close()
        if self.tables.hot is not None:
            self.tables.hot.close()
        if self.background is not None:
            self.background.close()
        self.engine.close()
        self.admission.authenticator.close()
        if self.login is not None:
            self.login.close()
        self.audit.close()
        if self.shared is not None:
            self.shared.server.close()


def open_backend(project: Project, layers: Collection[Layer], limits: Limits | None, patience: timedelta) -> Backend:
    """Return the components of a project. Nothing is read yet."""
    workspace, settings = Workspace(project), project.settings
    bounds = limits or Limits(settings.memory_bytes or 1 << 30, threads=2)
    copies, results = settings.state / "hot" / settings.env, settings.state / "queries" / settings.env
    tables, engine = Tables(workspace, layers), Engine(workspace.lake.storage, bounds, patience, (copies, results))
    tables.hot = HotTables(engine, workspace.lake.storage, copies, settings.serve.hot_bytes)
    audit, allowed = AuditLog(settings.state / "audit" / settings.env), settings.serve
    models, features = ServedModels(settings.models, project.graph.all_of(Artifact)), FeatureLookup(project)
    shared = _shared(project, tables)
    ring, tokens = KeyRing(ApiKeys(workspace.catalog, settings.env)), _tokens(allowed)
    queue = FairQueue(allowed.concurrent_queries, _MOST_WAITING, patience.total_seconds())
    reading = _reading(project, tables, engine, queue)
    return Backend(
        project=project,
        workspace=workspace,
        reading=reading,
        models=models,
        features=features,
        views=FeatureViews(reading, features.online, workspace),
        predictions=PredictionService(project, models, features),
        admission=Admission(
            Authenticator(ring, tokens, Certificates(allowed.certificates)),
            reading.authorizer,
            audit,
            RequestLimits(allowed),
            None if shared is None else shared.limits,
        ),
        sessions=BrowserSessions(SessionStore(workspace.catalog, settings.env), ring, allowed),
        login=_login(allowed, tokens),
        audit=audit,
        cache=ResponseCache(settings.serve.cache_bytes),
        exports=ExportedFiles(engine, settings.state / "exports" / settings.env, settings.serve.export_bytes),
        signatures=SignedUrls(f"{SHARING}/files", settings.state / "exports" / f"{settings.env}.secret"),
        shared=shared,
        background=_background(workspace, Tables(workspace, layers), queue, bounds, results),
    )


def _shared(project: Project, tables: Tables) -> SharedState | None:
    """Return what is shared with other replicas, if the settings name a server for it."""
    if not project.settings.serve.redis_url:
        return None
    with imports_of("redis", "a server whose replicas share limits and responses"):
        from serve.access.shared_state import SharedState  # noqa: PLC0415 - an optional dependency
    shared = SharedState.of(project, [each.name for each in tables.definitions], tables.expect)
    tables.announce = shared.versions.announce
    return shared


def _reading(project: Project, tables: Tables, engine: Engine, queue: FairQueue) -> Reading:
    authorizer = Authorizer(project.access, tables, engine)
    related = RelatedTables(project.graph, tables, authorizer)
    return Reading(tables, engine, authorizer, related, queue, MetricQueries(project, tables, engine, authorizer))


def _background(
    workspace: Workspace, tables: Tables, queue: FairQueue, bounds: Limits, folder: Path
) -> BackgroundQueries | None:
    """Return the queries in the background, which have an engine of their own: one thread, and a part of the memory."""
    settings = workspace.settings
    allowed = settings.serve
    if not allowed.result_bytes:
        return None
    limits = Limits(None if bounds.memory_bytes is None else bounds.memory_bytes // _BACKGROUND_PART, threads=1)
    engine = Engine(workspace.lake.storage, limits, timedelta(seconds=allowed.background_seconds))
    store = QueryStore(folder, allowed.result_bytes, allowed.result_seconds)
    reading = _reading(workspace.project, tables, engine, queue)
    return BackgroundQueries(reading, store, allowed.background_seconds, settings.lake)


def _login(settings: ServeSettings, tokens: TokenVerifier | None) -> ProviderLogin | None:
    if tokens is None or not settings.oidc_client_id:
        return None
    from serve.access.provider_login import ProviderLogin  # noqa: PLC0415 - needs an optional dependency

    return ProviderLogin(settings, tokens)


def _tokens(settings: ServeSettings) -> TokenVerifier | None:
    if not settings.oidc_issuer:
        return None
    with imports_of("oidc", "a server that accepts tokens of an identity provider"):
        from serve.access.tokens import ProviderTokens  # noqa: PLC0415 - an optional dependency
    return ProviderTokens(settings)
