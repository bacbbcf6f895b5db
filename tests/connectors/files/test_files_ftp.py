"""FTP servers that list files for people only, as vsftpd does, and folders that cannot be listed."""

from __future__ import annotations

import os

import pytest

from pipeline import files
from pipeline.connectors.files.ftp_client import _listed
from pipeline.core.errors import SourceError, SourceUnavailableError
from tests.rigs.remote_folders import read

CONTENT = b"id,name\n1,a\n"


@pytest.fixture(params=["ftp", "ftp list", "ftps"])
def server(request, tmp_path, file_servers):
    return file_servers.server(request.param, tmp_path.name)


def test_names_links_and_times(server):
    (server.folder / "in").mkdir()
    for name in ("x.csv", "-a b.csv", "ü.csv", "in/y.csv"):
        (server.folder / name).write_bytes(CONTENT)
        os.utime(server.folder / name, (1_700_000_000, 1_700_000_000))
    (server.folder / "link.csv").symlink_to("x.csv")
    reader = files(f"{server.uri}/*.csv", options=server.options)
    found = {each.uri.rpartition("/")[2]: each.stamp for each in reader.source_objects()}
    assert list(found) == ["-a b.csv", "link.csv", "x.csv", "ü.csv"]
    assert set(found.values()) == {f"12--{1_700_000_000 * 10**9}"}
    assert read(reader) == [(1, "a", 2)] * 4
    assert read(files(f"{server.uri}/*/y.csv", options=server.options)) == [(1, "a", 2)]


def test_a_folder_that_cannot_be_listed_is_not_missing(server):
    (server.folder / "closed").mkdir()
    (server.folder / "open").mkdir()
    (server.folder / "open" / "x.csv").write_bytes(CONTENT)
    for pattern in ("closed/*.csv", "*/x.csv", "**/*.csv"):
        with pytest.raises(SourceError, match=r"the files cannot be listed: got 5[05]0") as raised:
            files(f"{server.uri}/{pattern}", options=server.options).source_objects()
        assert not isinstance(raised.value, SourceUnavailableError)
    for pattern in ("none/*.csv", "none/none/*.csv", "open/none.csv"):
        with pytest.raises(SourceError, match="no file matches"):
            files(f"{server.uri}/{pattern}", options=server.options).source_objects()


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("-rw-r--r--    1 0        0              12 Nov 30 09:52 x.csv", ("x.csv", "file", 12)),
        ("-rw-r--r--+   1 ftp      ftp            12 Nov 30  2025  led by a space", (" led by a space", "file", 12)),
        ("drwxr-xr-x    2 0        0            4096 Nov 30 09:52 in", ("in", "directory", 4096)),
        ("lrwxrwxrwx    1 0        0               5 Nov 30 09:52 l.csv -> x.csv", ("l.csv", "link", 5)),
        ("-rw-r--r--    1 0        0               5 Nov 30 09:52 a -> b", ("a -> b", "file", 5)),
        ("11-30-26  09:52AM                   12 x y.csv", ("x y.csv", "file", 12)),
        ("11-30-2026  21:52       <DIR>          in", ("in", "directory", 0)),
        ("total 12", None),
        ("drwxr-xr-x    2 0        0            4096 Nov 30 09:52 ..", None),
    ],
)
def test_lines_of_listings(line, entry):
    found = _listed(line, "/")
    assert (found and (found[0], found[1]["type"], found[1]["size"])) == entry


def test_an_unknown_line_is_an_error_and_not_a_missing_file():
    with pytest.raises(SourceError, match=r"in a format that is not known: got 'X\.CSV;1  12/24' in /in; use a server"):
        _listed("X.CSV;1  12/24", "/in")
