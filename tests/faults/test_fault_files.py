"""Small files in a folder and in an object store: written completely or not at all, and created by one writer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.core.errors import OutcomeUnknownError, StorageError
from pipeline.lake import Storage
from tests.rigs.proxy import Fault, Rule, proxied


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "place"))
    return request.getfixturevalue("s3").storage(f"files-{tmp_path.name}")


def test_bytes_are_read_as_they_were_written(storage):
    content = bytes(range(256)) * 1000
    storage.write_bytes("state/a.bin", b"first")
    storage.write_bytes("state/a.bin", content)

    assert storage.read_bytes("state/a.bin") == content
    assert storage.read_existing(["state/a.bin", "state/none"]) == {"state/a.bin": content}
    assert storage.read_existing([]) == {}
    with storage.open("state/a.bin") as file:
        assert file.read(3) == content[:3]
    with pytest.raises(StorageError, match="cannot read 'state/none'") as error:
        storage.read_bytes("state/none")
    assert isinstance(error.value.__cause__, FileNotFoundError)


def test_names_are_listed_by_prefix(storage):
    for name in ("b/2", "b/1", "b/deep/3", "a", "bc"):
        storage.write_bytes(name, b"x")

    assert storage.names() == ("a", "b/1", "b/2", "b/deep/3", "bc")
    assert storage.names("b/") == ("b/1", "b/2", "b/deep/3")
    assert storage.names("b") == ("b/1", "b/2", "b/deep/3", "bc")
    assert storage.names("nothing/") == ()
    assert set(storage.files()) == set(storage.names())


def test_a_name_is_created_once(storage):
    assert storage.create("epochs/1", b"mine")
    assert not storage.create("epochs/1", b"theirs")
    assert storage.create("epochs/1", b"mine")  # repeated because the response was lost
    assert storage.read_bytes("epochs/1") == b"mine"
    assert storage.names() == ("epochs/1",)


def test_one_of_racing_creators_wins(storage):
    together = threading.Barrier(8)

    def create(number):
        together.wait()
        return storage.create("epochs/1", f"{number}".encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))

    assert won.count(True) == 1
    assert storage.read_bytes("epochs/1") == f"{won.index(True)}".encode()


@pytest.mark.parametrize("fault", [Fault.LIE, Fault.DROP])
def test_a_creator_whose_response_is_lost_detects_its_success(s3, fault):
    with proxied(s3.port) as proxy:
        storage = s3.storage(f"created-{fault.name}", port=proxy.port)
        proxy.rule(Rule("PUT", "/1$", fault))
        assert storage.create("1", b"mine")
        proxy.rule(Rule("PUT", "/1$", fault))
        assert not storage.create("1", b"theirs")
        assert proxy.faults("PUT", "/1$") == 2


def test_an_unknown_outcome_of_a_creation_is_reported(s3):
    with proxied(s3.port) as proxy:
        storage = s3.storage("unknown", port=proxy.port)
        storage.create("0", b"")
        refuse = (Rule("PUT", "/1$", Fault.REFUSE, 403, 100), Rule("GET", "/1$", Fault.REFUSE, 403, 100))
        proxy.rule(Rule("PUT", "/1$", Fault.LIE, 403, then=refuse))
        with pytest.raises(OutcomeUnknownError, match=r"'1' below .* was written and cannot be read again"):
            storage.create("1", b"mine")
        proxy.rule(Rule("PUT", "/2$", Fault.REFUSE, 403, 100))
        with pytest.raises(StorageError, match="cannot write '2' below"):
            storage.create("2", b"mine")
        proxy.rule()
        assert storage.create("1", b"mine")


def test_failed_write_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    storage = Storage(str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot write 'a'"):
        storage.write_bytes("a", b"")
    with pytest.raises(StorageError, match="cannot write to disk below"):
        storage.sync(["none"])
