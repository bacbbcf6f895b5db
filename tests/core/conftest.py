"""A deterministic Hypothesis profile, and small definitions for graphs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings

from pipeline.core.definitions import Artifact, Table
from pipeline.core.errors import Place

settings.register_profile("fixed", derandomize=True, print_blob=True, deadline=None)
settings.load_profile("fixed")


@dataclass(frozen=True)
class Reads:
    """A transform that only has inputs."""

    inputs: tuple[str, ...]
    fingerprint: str = "f"
    language: str = "sql"

    def __call__(self, *args, **tables):
        return args, tables


@dataclass(frozen=True, kw_only=True)
class Model(Artifact):
    reads: tuple[str, ...] = ()

    @property
    def kind(self):
        return "model"

    @property
    def inputs(self):
        return self.reads

    @property
    def fingerprint(self):
        return "f"

    def verdict(self, bench):
        return bench is None

    def build(self, bench):
        return bench

    def registered(self, store, name):
        del store, name
        return frozenset()


@pytest.fixture(scope="session")
def defined():
    """Return tables from `name=inputs` pairs, each with its own line as place; an upper-case name is a model."""

    def of(**reads):
        definitions = []
        for line, (name, inputs) in enumerate(reads.items(), start=1):
            place = Place("flights.py", line)
            if name.isupper():
                definitions.append(Model(name=name, reads=tuple(inputs.split()), place=place))
            else:
                definitions.append(
                    Table(name=name, transform=Reads(tuple(inputs.split())), layer="silver", place=place)
                )
        return definitions

    return of
