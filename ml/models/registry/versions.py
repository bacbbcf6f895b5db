"""The registered versions of models: what they are, which is used for what, and how that changes.

A version has roles, which are MLflow's aliases: the `champion` is served, a `challenger` is compared with it on part of the traffic, a
`shadow` only beside it. Each change of the champion is recorded, so that it can be taken back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ml.models.registry.model_store import ModelStore
from ml.models.registry.promotions import ChampionChange, promotions_of, record_promotion
from ml.models.registry.registry import AWAITS_ROLLOUT, FORMAT, FROZEN, STATE, TRAFFIC, VERDICT, Origin
from ml.models.registry.roles import CHALLENGER, CHAMPION, ROLES, SHADOW, Role
from pipeline.core.errors import RequestError, did_you_mean


@dataclass(frozen=True)
class ModelVersion:
    """A registered version of a model."""

    name: str
    number: int
    roles: tuple[str, ...]
    created: datetime
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    run_id: str

    @property
    def origin(self) -> Origin | None:
        """What it was trained from."""
        return Origin.of(self.tags)

    @property
    def format(self) -> str:
        """How it is stored: `trees` and `skops` run no code when they are loaded, `cloudpickle` does."""
        return self.tags.get(FORMAT, "cloudpickle")

    @property
    def state(self) -> str:
        """Why it is not the champion, if somebody or an option of the model decided that."""
        return self.tags.get(STATE, "")


class ModelVersions:
    """The registered versions of the models in a store."""

    def __init__(self, store: str) -> None:
        """Create it without opening the store."""
        self._store = ModelStore(store)

    def names(self) -> list[str]:
        """Return the names of all registered models."""
        with self._store.translating():
            return sorted(str(each.name) for each in self._store.client().search_registered_models())

    def of(self, name: str) -> list[ModelVersion]:
        """Return the versions of a model, the newest first; none for a model that is not registered."""
        if "'" in name:  # MLflow's filters cannot express such a name, and no model has one
            return []
        with self._store.translating():
            client = self._store.client()
            aliases: dict[int, list[str]] = {}
            for each in client.search_registered_models(f"name='{name}'"):
                for alias, number in each.aliases.items():
                    aliases.setdefault(int(number), []).append(alias)
            found = [_version(client, each, aliases) for each in client.search_model_versions(f"name='{name}'")]
            return sorted(found, key=lambda each: -each.number)

    def require(self, name: str, number: int | None = None, role: str = CHAMPION) -> ModelVersion:
        """Return a version, by default the one with a role; raise `RequestError` if there is none."""
        versions = self.of(name)
        if not versions:
            known = self.names()
            do = did_you_mean(name, known) if known else "train one: headwater run"
            raise RequestError(f"no model {name!r} is registered", do=do)
        for each in versions:
            if each.number == number or (number is None and role in each.roles):
                return each
        wanted = f"version {number}" if number is not None else role
        numbers = ", ".join(str(each.number) for each in versions[:10])
        raise RequestError(f"model {name!r} has no {wanted}", do=f"its versions are {numbers}")

    def promotions(self, name: str) -> list[ChampionChange]:
        """Return the changes of the champion, the newest first."""
        with self._store.translating():
            return promotions_of(self._store.client(), name)

    def promote(
        self, name: str, number: int, role: Role = CHAMPION, reason: str = "by hand", traffic: float = 0.0
    ) -> ModelVersion:
        """Give a version a role, which its previous holder loses; return the version.

        A challenger gets a share of the `traffic`. Raises `RequestError` if there is no such version, if the champion would be its own
        challenger, and for a share that is none.
        """
        version = self.require(name, number)
        if not 0 <= traffic <= 1 or (traffic and role != CHALLENGER):
            problem = (
                "only a challenger gets a share of the traffic"
                if 0 <= traffic <= 1
                else "this is no share of the traffic"
            )
            raise RequestError(problem, got=f"{traffic:g}", do="pass a share from 0 to 1 with --to challenger")
        if role != CHAMPION and CHAMPION in version.roles:
            problem = f"version {number} of model {name!r} is the champion"
            raise RequestError(problem, do="choose another version, or promote another champion first")
        before = next((each.number for each in self.of(name) if CHAMPION in each.roles), None)
        with self._store.translating():
            client = self._store.client()
            if role == CHALLENGER:
                client.set_registered_model_tag(name, TRAFFIC, repr(float(traffic)))
            if role == CHAMPION:
                record_promotion(client, name, number, reason)
                client.delete_model_version_tag(name, str(number), STATE)
                for other in (each for each in version.roles if each != CHAMPION):
                    client.delete_registered_model_alias(name, other)
                if CHALLENGER in version.roles:
                    client.set_registered_model_tag(name, TRAFFIC, "0")
                if before is not None and before > number:  # a run would train its definition and rows again
                    client.set_model_version_tag(name, str(before), STATE, f"replaced by version {number}: {reason}")
            client.set_registered_model_alias(name, role, str(number))
        return self.require(name, number)

    def rollback(self, name: str, reason: str = "by hand") -> tuple[ModelVersion, ModelVersion]:
        """Make the last champion before this one that was not withdrawn the champion again; return both, the new one first.

        The next run does not train the withdrawn version again, unless its rows or its definition change. Raises `RequestError` if
        the champion replaced none, or the version is no longer registered.
        """
        champion = self.require(name)
        versions = {each.number: each for each in self.of(name)}
        earlier = (each.version for each in self.promotions(name) if each.version != champion.number)
        usable = (number for number in earlier if number in versions and not versions[number].state)
        number = next(usable, None)
        if number is None:
            problem = (
                f"before version {champion.number} of model {name!r}, no version was champion that could be used again"
            )
            raise RequestError(problem, do=f"promote another one: headwater model promote {name} VERSION")
        before = versions[number]
        with self._store.translating():
            client = self._store.client()
            client.set_model_version_tag(name, str(champion.number), STATE, f"withdrawn: {reason}")
            record_promotion(client, name, before.number, f"rollback of version {champion.number}: {reason}")
            client.set_registered_model_alias(name, CHAMPION, str(before.number))
        return self.require(name, before.number), champion

    def withdraw(self, name: str, number: int, reason: str = "by hand") -> ModelVersion:
        """Take away the role of a challenger, a shadow, or a version that waits; return the version.

        The next run does not train it again, unless its rows or its definition change. Raises `RequestError` if there is no such
        version, and for the champion.
        """
        version = self.require(name, number)
        if CHAMPION in version.roles:
            problem = f"version {number} of model {name!r} is the champion"
            raise RequestError(problem, do=f"go back to the one before: headwater model rollback {name}")
        with self._store.translating():
            self._store.client().set_model_version_tag(name, str(number), STATE, f"withdrawn: {reason}")
        for role in (CHALLENGER, SHADOW):
            self.release(name, number, role)
        return self.require(name, number)

    def release(self, name: str, number: int, role: Role) -> None:
        """Take a role away from a version, if it has it."""
        if role not in self.require(name, number).roles:
            return
        with self._store.translating():
            client = self._store.client()
            client.delete_registered_model_alias(name, role)
            if role == CHALLENGER:
                client.set_registered_model_tag(name, TRAFFIC, "0")

    def stop_waiting(self, name: str, number: int, state: str) -> None:
        """Let a version that waits for its rollout have another state; none if it is empty."""
        if not any(each.number == number and each.state == AWAITS_ROLLOUT for each in self.of(name)):
            return
        with self._store.translating():
            client = self._store.client()
            if state:
                client.set_model_version_tag(name, str(number), STATE, state)
            else:
                client.delete_model_version_tag(name, str(number), STATE)

    def freeze(self, name: str, reason: str) -> None:
        """Keep the champion of a model as it is: runs do not train it until `unfreeze`. Raises `RequestError` without a reason."""
        if not reason.strip():
            raise RequestError("a model is frozen for a reason", got="an empty one", do="say why: --reason 'audit'")
        self._tag(name, reason)

    def unfreeze(self, name: str) -> None:
        """Let runs train a model again."""
        self._tag(name, "")

    def _tag(self, name: str, reason: str) -> None:
        if not self.of(name):
            self.require(name)  # says which models there are
        with self._store.translating():
            client = self._store.client()
            if reason:
                client.set_registered_model_tag(name, FROZEN, reason)
            else:
                client.delete_registered_model_tag(name, FROZEN)

    def require_unused(self, name: str, number: int) -> None:
        """Raise `RequestError` if there is no such version, or if it has a role."""
        version = self.require(name, number)
        if version.roles:
            problem = f"version {number} of model {name!r} is in use as {' and '.join(version.roles)}"
            raise RequestError(problem, do="promote another version first")
        if version.state and number == self.of(name)[0].number:
            problem = (
                f"version {number} of model {name!r} is kept back, and a run would train it again if it were deleted"
            )
            raise RequestError(problem, got=version.state, do="change the definition first, or keep the version")

    def retire(self, name: str, number: int) -> None:
        """Delete a version, so that the rows it was trained from are no longer held.

        Raises `RequestError` if there is no such version, or if it is in use.
        """
        self.require_unused(name, number)
        with self._store.translating():
            self._store.client().delete_model_version(name, str(number))


def _version(client: Any, found: Any, aliases: Mapping[int, Sequence[str]]) -> ModelVersion:
    data = client.get_run(found.run_id).data if found.run_id else None
    number = int(found.version)
    roles = sorted(aliases.get(number, ()), key=lambda each: ROLES.index(each) if each in ROLES else len(ROLES))
    return ModelVersion(
        name=str(found.name),
        number=number,
        roles=tuple(roles),
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        metrics={} if data is None else dict(data.metrics),
        params={} if data is None else dict(data.params),
        tags={**({VERDICT: data.tags[VERDICT]} if data is not None and VERDICT in data.tags else {}), **found.tags},
        run_id=str(found.run_id or ""),
    )
