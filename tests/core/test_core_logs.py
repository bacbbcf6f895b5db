"""Logs: one logger per package, with the fields of the context in every message."""

from __future__ import annotations

import json
import logging

import pytest

from cluster.cli.logs import LogFormat, configure
from pipeline.core.logs import fields, logger


@pytest.mark.parametrize(
    ("module", "room"),
    [
        ("pipeline.lake.head", "headwater.lake"),
        ("pipeline.streaming.runtime.commit", "headwater.streaming"),
        ("serve.app", "headwater.serve"),
    ],
)
def test_the_logger_is_named_after_the_package(caplog, module, room):
    with caplog.at_level(logging.INFO, "headwater"):
        logger(module).info("done", rows=3)
    assert [(record.name, record.message, record.fields) for record in caplog.records] == [(room, "done", {"rows": 3})]


def test_a_context_adds_fields_temporarily(caplog):
    log = logger("pipeline.batch.task")
    with caplog.at_level(logging.INFO, "headwater"):
        with fields(run="r1"), fields(table="orders"):
            log.info("inside", rows=1)
        log.info("outside")
    assert [record.fields for record in caplog.records] == [{"run": "r1", "table": "orders", "rows": 1}, {}]


@pytest.fixture
def _configured():
    root = logging.getLogger("headwater")
    before = (root.handlers[:], root.propagate, root.level)
    yield
    root.handlers[:], root.propagate = before[0], before[1]
    root.setLevel(before[2])


@pytest.mark.usefixtures("_configured")
@pytest.mark.parametrize(
    ("verbose", "quiet", "levels"),
    [(0, False, ["warning", "error"]), (1, False, ["info", "warning", "error"]), (0, True, ["error"])],
)
def test_verbose_and_quiet_select_the_levels(capsys, verbose, quiet, levels):
    configure(verbose=verbose, quiet=quiet, form=LogFormat.JSON)
    log = logger("pipeline.runner.runner")
    for level in ("debug", "info", "warning", "error"):
        getattr(log, level)("said", level_of=level)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines] == [line["level_of"] for line in lines] == levels


@pytest.mark.usefixtures("_configured")
def test_text_format_quotes_values_with_spaces(capsys):
    configure()
    logger("pipeline.lake.delta").warning("not tidied", table="orders", error='disk "full"')
    assert capsys.readouterr().err.rstrip().endswith(r'warning lake: not tidied table=orders error="disk \"full\""')
