"""Small files in a local folder and on S3: the same answers from both."""

from __future__ import annotations

import datetime as dt
import os
import uuid

import pytest

from pipeline.core.errors import StorageError
from pipeline.lake import Storage


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "lake"))
    return request.getfixturevalue("s3").storage(uuid.uuid4().hex)


def test_a_folder_without_files_has_no_names(storage):
    folder = storage.at("notes")
    folder.touch("silver/orders/1")
    folder.remove(["silver/orders/1"])

    assert folder.names() == ()
    assert folder.names("silver/") == ()
    assert storage.names() == ()
    assert folder.files() == {}


def test_names_are_those_of_files_at_any_depth(storage):
    for name in ("a", "b/c", "b/d/e"):
        storage.touch(name)
    storage.touch("b/f")
    storage.remove(["b/f"])

    assert storage.names() == ("a", "b/c", "b/d/e")
    assert storage.names("b/") == ("b/c", "b/d/e")
    assert storage.names("b/d") == ("b/d/e",)
    assert set(storage.files()) == {"a", "b/c", "b/d/e"}


def test_files_that_another_process_has_removed_are_removed(storage):
    for name in ("a", "b"):
        storage.touch(name)
    storage.remove(["gone", "a"])
    storage.remove(["gone"])

    assert storage.names() == ("b",)


def test_a_file_that_is_taken_over_is_new(tmp_path):
    """Otherwise, a vacuum could take it for an orphan before its commit."""
    source, target = Storage(str(tmp_path / "a")), Storage(str(tmp_path / "b"))
    source.write_bytes("x/old.parquet", b"rows")
    begin = source.time("now") - dt.timedelta(seconds=1)
    os.utime(tmp_path / "a" / "x" / "old.parquet", (0, 0))

    target.copy(source, "x/old.parquet")

    assert target.read_bytes("x/old.parquet") == b"rows"
    assert target.files()["x/old.parquet"].modified >= begin


def test_files_are_copied_within_a_location_and_from_another(storage, tmp_path):
    other = Storage(str(tmp_path / "other"))
    for name in ("a.parquet", "b.json"):
        other.write_bytes(name, name.encode())
        storage.at("t").copy(other, name)
        storage.at("t").copy(storage.at("t"), name, f"x/{name}")
        storage.at("u").copy(storage.at("t"), f"x/{name}", name)
    assert storage.names() == ("t/a.parquet", "t/b.json", "t/x/a.parquet", "t/x/b.json", "u/a.parquet", "u/b.json")
    assert all(storage.read_text(name).encode() == name.rpartition("/")[2].encode() for name in storage.names())
    with pytest.raises(StorageError, match=r"cannot (copy|read) 'none.parquet'"):
        storage.at("t").copy(storage.at("u"), "none.parquet")
