"""Shared by all tests: which share of them runs, on how many workers, and the servers of a session.

Tests run on several workers; see `rigs/workers.py` for those that share one.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Iterator

import pytest
from _pytest.runner import runtestprotocol

from benchmarks.kafka import Cluster
from pipeline.core.errors import UnavailableError
from pipeline.core.logs import ROOT
from pipeline.core.processes import cores
from tests.rigs import proofs, workers
from tests.rigs.command import CommandServer, ConsoleScript
from tests.rigs.command import headwater_command as running_command
from tests.rigs.file_servers import file_servers as file_servers  # noqa: PLC0414 - the fixture
from tests.rigs.snowflake_account import snowflake as snowflake  # noqa: PLC0414 - the fixture
from tests.rigs.snowflake_account import snowflake_account as snowflake_account  # noqa: PLC0414 - the fixture
from tests.rigs.snowflake_account import snowflake_url as snowflake_url  # noqa: PLC0414 - the fixture
from tests.rigs.weed import s3 as s3  # noqa: PLC0414 - the fixture

_internal_errors: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets background processes ignore it
    os.environ.setdefault("COLUMNS", "160")  # workers have no terminal
    if not proofs.PROOFS:  # brokers run for seconds: optimizing their code takes longer than it saves
        os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
    for line in proofs.MARKERS:
        config.addinivalue_line("markers", line)


@pytest.hookimpl(tryfirst=True)
def pytest_internalerror(excrepr: object, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Keep the first internal error, which is that of a worker: the error of the controller that follows hides it."""
    del excinfo
    _internal_errors.append(str(excrepr))


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries report what is left at the end
    if len(_internal_errors) > 1:
        print(f"\nThe first internal error:\n{_internal_errors[0][-1200:]}")  # noqa: T201 - the end of the output


@pytest.fixture(autouse=True)
def logging_by_default() -> None:
    """Undo what commands and libraries that ran in this process have set for the loggers of our packages, and for all."""
    logging.disable(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:  # those of caplog; Ray raises their level
        handler.setLevel(logging.NOTSET)
    every = logging.getLogger(ROOT)
    every.handlers.clear()
    for each in (every, *(logging.getLogger(n) for n in logging.root.manager.loggerDict if n.startswith(f"{ROOT}."))):
        each.setLevel(logging.NOTSET)
        each.propagate, each.disabled = True, False


@pytest.fixture(autouse=True)
def ctrl_c_stays() -> Iterator[None]:
    """Check that a test leaves no handler of Ctrl-C: later ones, and users, could not stop what runs."""
    yield
    handler = signal.getsignal(signal.SIGINT)
    assert handler is signal.default_int_handler, f"{handler} handles Ctrl-C now"


def pytest_report_header() -> str:
    return f"seed {proofs.SEED}: {'all proofs' if proofs.PROOFS else 'a share of the proofs'}"


def pytest_xdist_auto_num_workers() -> int:
    """One more than the number of cores: tests wait for disks, servers and processes, and a worker costs 10 s of a core."""
    return cores() + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items[:], left = proofs.chosen(items)
    config.hook.pytest_deselected(items=left)
    if hasattr(config, "workerinput"):
        workers.write(config, items)


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays: it need not be searched for cycles again and again


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Stop a server after its last test rather than at the end of the session."""
    if not workers.is_last_of_server(item, nextitem):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    runtestprotocol(item, nextitem=None)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> workers.ByServer:
    return workers.ByServer(config, log)


@pytest.fixture(scope="session")
def headwater_command() -> Iterator[CommandServer | ConsoleScript]:
    """The runner of the `headwater` command."""
    with running_command() as command:
        yield command


@pytest.fixture(scope="session")
def kafka(tmp_path_factory) -> Iterator[Cluster]:
    """A broker on loopback. Tests that kill brokers start their own. Topics are not removed, so use unique names."""
    try:
        cluster = Cluster(tmp_path_factory.mktemp("kafka"))
    except UnavailableError as error:
        pytest.skip(str(error))
    with cluster:
        yield cluster
