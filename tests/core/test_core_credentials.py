"""Credentials are named in definitions, and looked up where they are used."""

from __future__ import annotations

import pytest

from pipeline.core.credentials import is_reference, secret
from pipeline.core.errors import SettingsError


def test_a_credential_is_found_by_its_reference(tmp_path):
    (tmp_path / "password").write_text("s3cret\n")
    assert secret("env:A", "it", {"A": "b"}) == "b"
    assert secret(f"file:{tmp_path / 'password'}", "it") == "s3cret"
    assert secret("literal", "it") == "literal"
    assert [is_reference(value) for value in ("env:A", "file:/a", "literal")] == [True, True, False]


def test_a_missing_credential_is_named(tmp_path):
    with pytest.raises(SettingsError, match="the environment variable 'A' with the password of shop is not set; set A"):
        secret("env:A", "the password of shop", {"A": ""})
    with pytest.raises(
        SettingsError, match=r"the file of the password of shop cannot be read: got .*No such file.*create "
    ):
        secret(f"file:{tmp_path / 'none'}", "the password of shop")
