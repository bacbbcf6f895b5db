"""The cache of contents on the local disk."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from pipeline.core import disk_cache
from pipeline.core.disk_cache import DiskCache, cache_here, use_cache

FORK = multiprocessing.get_context("forkserver")


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def cache(tmp_path) -> DiskCache:
    return DiskCache(tmp_path / "cache", 16_000)


def test_contents_are_found_by_their_key(cache):
    assert cache.get("a") is None
    cache.put("a", b"first")
    cache.put("b", b"")
    cache.put("a", b"second")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"second", b"", None)
    assert DiskCache(cache.folder, 1).get("a") == b"second"


def test_entries_used_least_recently_are_removed(cache):
    names = [chr(ord("a") + number) for number in range(26)]
    for name in names:
        for path in entries(cache.folder):  # the clock of files is coarse
            os.utime(path, (path.stat().st_mtime - 10, path.stat().st_mtime - 10))
        cache.put(name, bytes(900))
        assert cache.get("a") is not None
    stored = sum(path.stat().st_size for path in entries(cache.folder))
    assert 0.8 * cache.max_bytes < stored <= cache.max_bytes + cache.max_bytes // 16
    kept = [name for name in names if cache.get(name) is not None]
    assert kept == ["a", *names[-len(kept) + 1 :]]


def test_a_content_larger_than_a_part_of_the_limit_is_not_stored(cache):
    cache.put("a", bytes(2_000))
    assert cache.get("a") is None
    assert not cache.folder.exists()


@pytest.mark.parametrize(
    "damage", [lambda entry: entry[:-1], lambda _: b"", lambda entry: entry[:40] + b"x" + entry[41:]]
)
def test_a_damaged_entry_is_found_and_removed(cache, damage, caplog):
    cache.put("a", b"0123456789")
    [path] = entries(cache.folder)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get("a") is None
    assert not path.exists()
    assert "removed a damaged file of the cache" in caplog.text
    cache.put("a", b"again")
    assert cache.get("a") == b"again"


def test_a_folder_that_cannot_be_used_caches_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = DiskCache(tmp_path / "file", 1_000)
    cache.put("a", b"1")
    cache.put("b", b"2")
    assert cache.get("a") is None
    assert caplog.text.count("files of the lake cannot be cached") == 1


def test_drafts_of_ended_processes_are_removed(cache):
    cache.put("a", b"1")
    [path] = entries(cache.folder)
    old, new = path.with_name("draft-old"), path.with_name("draft-new")
    for each in (old, new):
        each.write_bytes(b"")
    os.utime(old, (1, 1))
    DiskCache(cache.folder, 16_000).put("b", b"2")
    assert (old.exists(), new.exists()) == (False, True)


def _use(folder: Path, seed: int) -> int:
    """Store and read contents that identify their key, and return how many were found."""
    cache, found = DiskCache(folder, 40_000), 0
    for number in range(300):
        key = str((number * (seed + 3)) % 50)
        content = cache.get(key)
        assert content in {None, key.encode() * 400}, "a content of another key, or a part of one"
        found += content is not None
        cache.put(key, key.encode() * 400)
    return found


def test_processes_use_a_cache_together(tmp_path):
    with FORK.Pool(3) as pool:
        found = pool.starmap(_use, [(tmp_path, seed) for seed in range(3)])
    assert sum(found) > 0
    cache = DiskCache(tmp_path, 40_000)
    cache.put("last", b"")
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= 40_000 + 40_000 // 16


def test_a_process_has_one_cache_or_none(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "_here", [])
    use_cache(tmp_path, 1_000)
    assert cache_here().folder == tmp_path
    use_cache(tmp_path, 0)
    assert cache_here() is None
