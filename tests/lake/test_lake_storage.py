"""Small files in a local folder and on S3: the same answers from both."""

from __future__ import annotations

import uuid

import pytest

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
