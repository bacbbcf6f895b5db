"""A look at a system: what it contains, within limits, as a document that a later look is compared with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.core.discovery import Discoverable, DiscoveredObject, DiscoveryLimits
from pipeline.core.errors import HeadwaterError, quantity
from pipeline.core.schema import Schema, compare
from pipeline.discovery.profiles import ColumnProfile, SampleProfile, profile

FORMAT = 1
_NOT_NAMES = {"", "csv", "tsv", "json", "ndjson", "jsonl", "parquet", "avro", "orc", "xlsx", "gz", "zst", "public"}


@dataclass(frozen=True)
class ProfiledObject:
    """An object of a system with the profile of its sample, or why it has none."""

    discovered: DiscoveredObject
    sample: SampleProfile | None = None
    problem: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """The declared key, otherwise the best candidate."""
        if self.discovered.key:
            return self.discovered.key
        return self.sample.keys[0] if self.sample is not None and self.sample.keys else ()

    def variable(self) -> str:
        """Return a name for its source in Python."""
        parts = [part for part in re.split(r"[/:.]", self.discovered.name) if "=" not in part]
        words = [re.sub(r"\W+|_+", "_", part).strip("_").lower() for part in parts]
        chosen = [word for word in words if word not in _NOT_NAMES and not word.isdigit()]
        return f"raw_{chosen[-1] if chosen else 'rows'}"

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        each, sample = self.discovered, self.sample
        document: dict[str, Any] = {
            "name": each.name,
            "kind": each.kind,
            "reader": each.reader.code(),
            "rows": each.rows,
            "size_bytes": each.size_bytes,
            "partitioning": each.partitioning,
            "key": list(each.key),
            "notes": list(each.notes),
            "problem": self.problem,
        }
        if sample is not None:
            document |= {
                "sampled_rows": sample.rows,
                "key_candidates": [list(key) for key in sample.keys],
                "event_times": list(sample.event_times),
                "changed_at": sample.changed_at,
                "columns": [asdict(column) for column in sample.columns],
            }
        return document


@dataclass(frozen=True)
class Look:
    """What a system contains."""

    uri: str
    objects: tuple[ProfiledObject, ...]
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        objects = [each.document() for each in self.objects]
        return {"format": FORMAT, "uri": self.uri, "objects": objects, "notes": list(self.notes)}


def look_at(system: Discoverable, limits: DiscoveryLimits, clock: Callable[[], float]) -> Look:
    """Return what a system contains, from a sample of each object within the limits.

    An object that cannot be read is returned with the reason. Raises `SourceError` if the system is unavailable.
    """
    begin, notes = clock(), []
    listed = list(system.objects(limits))
    if len(listed) > limits.objects:
        listed = listed[: limits.objects]
        notes.append(f"there are more than {limits.objects:,} objects; the others are left out")
    profiled: list[ProfiledObject] = []
    for each in listed:
        if clock() - begin > limits.time_s:
            profiled.append(ProfiledObject(each, problem=f"not looked at within {limits.time_s:g} s"))
            continue
        profiled.append(profile_of(system, each, limits))
    return Look(system.uri, tuple(profiled), tuple(notes))


def profile_of(system: Discoverable, each: DiscoveredObject, limits: DiscoveryLimits) -> ProfiledObject:
    """Return an object with the profile of its sample, or with the reason why it cannot be read."""
    try:
        sample = system.sample(each, limits)
    except HeadwaterError as error:
        return ProfiledObject(each, problem=str(error))
    if sample.num_columns == 0:
        return ProfiledObject(each, problem="there are no rows")
    return ProfiledObject(each, profile(sample))


def changes_since(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what is different between the documents of two looks, one sentence each."""
    old, new = ({each["name"]: each for each in look["objects"]} for look in (before, now))
    changes = [f"new {new[name]['kind']}: {name}" for name in new if name not in old]
    changes += [f"{old[name]['kind']} is gone: {name}" for name in old if name not in new]
    for name in new:
        if name in old:
            changes += [f"{name}: {change}" for change in _changes(old[name], new[name])]
    return tuple(changes)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changes = []
    if old.get("columns") and new.get("columns"):
        difference = str(compare(_schema(old["columns"]), _schema(new["columns"])))
        changes += [difference] if difference else []
        changes += _new_personal_data(old["columns"], new["columns"])
    changes += [
        f"{what} was {_shown(old.get(field))}, now {_shown(new.get(field))}"
        for field, what in (("key", "the key"), ("partitioning", "the partitioning"), ("problem", "the problem"))
        if old.get(field) != new.get(field)
    ]
    if old.get("rows") is not None and new.get("rows") is not None and old["rows"] != new["rows"]:
        changes.append(f"{quantity(old['rows'], 'row')} before, now {quantity(new['rows'], 'row')}")
    return changes


def _new_personal_data(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[str]:
    known = {each["name"]: each["personal"] for each in old}
    return [
        f"column {each['name']!r} may contain personal data: {each['personal']['kind']} ({each['personal']['confidence']})"
        for each in new
        if each["personal"] and not known.get(each["name"])
    ]


def _schema(columns: Sequence[Mapping[str, Any]]) -> Schema:
    return Schema.of({each["name"]: each["type"] for each in columns})


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) and value else str(value or "none")


def is_top_level(column: ColumnProfile, columns: Sequence[ColumnProfile]) -> bool:
    """Return whether a profile is that of a column, and not that of a field of a struct."""
    parents = {each.name for each in columns if each.type.startswith("STRUCT")}
    return not any(column.name.startswith(f"{parent}.") for parent in parents)
