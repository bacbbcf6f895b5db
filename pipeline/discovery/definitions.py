"""Definitions of sources as Python code, from a look at a system."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.discovery.look import ProfiledObject, is_top_level
from pipeline.discovery.profiles import ColumnProfile, SampleProfile

_WITH_CURSOR = {"sqlite", "duckdb_file", "mysql", "postgres", "mongodb", "rest"}


def definition(each: ProfiledObject, name: str) -> str:
    """Return the definition of a source; comments say what a person should decide."""
    call, sample = each.discovered.reader.code(), each.sample
    comments = [f"# {text}\n" for text in _comments(each)]
    head = f"{''.join(comments)}{name} = source(\n    {call},\n"
    return f"{head}{'' if sample is None else _schema(sample)})\n"


def module(objects: Iterable[ProfiledObject]) -> str:
    """Return a module with the definitions of all objects, with different names."""
    taken: set[str] = set()
    texts, functions = [], {"source"}
    for each in objects:
        name, number = each.variable(), 1
        while name in taken:
            number += 1
            name = f"{each.variable()}_{number}"
        taken.add(name)
        functions.add(each.discovered.reader.function)
        texts.append(definition(each, name))
    return f"from pipeline import {', '.join(sorted(functions))}\n\n" + "\n".join(texts)


def _comments(each: ProfiledObject) -> list[str]:
    sample, comments = each.sample, []
    if sample is None:
        return [f"not looked at: {each.problem}"]
    if each.discovered.key:
        comments.append(f"the key is {', '.join(each.discovered.key)}")
    elif sample.keys:
        comments.append(f"the key may be {', '.join(sample.keys[0])}: unique in {sample.rows:,} sampled rows")
    if sample.event_times:
        comments.append(f"the event time may be {sample.event_times[0]}")
    if sample.changed_at and each.discovered.reader.function in _WITH_CURSOR:
        comments.append(f'cursor="{sample.changed_at}" reads only what is new')
    return comments


def _schema(sample: SampleProfile) -> str:
    columns = [each for each in sample.columns if is_top_level(each, sample.columns)]
    lines = [f"        {_text(each.name)}: {_text(_type(each))},{_note(each)}\n" for each in columns]
    return "    schema={\n" + "".join(lines) + "    },\n" if lines else ""


def _type(column: ColumnProfile) -> str:
    kind = column.suggested_type or column.type
    return kind if "(" in kind and not kind.startswith("DECIMAL") else kind.lower()


def _note(column: ColumnProfile) -> str:
    notes = []
    if column.suggested_type:
        notes.append("text in the data")
    if column.personal is not None:
        notes.append(f"{column.personal.confidence}: {column.personal.kind} (by {column.personal.why})")
    return f"  # {'; '.join(notes)}" if notes else ""


def _text(text: str) -> str:
    """Return a text as Python code, in double quotes if it has none."""
    return repr(text) if '"' in text or "\\" in text or not text.isprintable() else f'"{text}"'
