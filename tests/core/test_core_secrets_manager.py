"""Credentials in AWS Secrets Manager, from moto's server: texts, values of JSON objects, rotation, and what is refused."""

from __future__ import annotations

import json
import uuid

import botocore.session
import pytest

from pipeline.core import secrets_manager
from pipeline.core.credentials import is_reference, secret
from pipeline.core.errors import SettingsError, UnavailableError
from tests.rigs.aws import aws as aws  # noqa: PLC0414 - the fixtures
from tests.rigs.aws import aws_endpoint as aws_endpoint  # noqa: PLC0414


@pytest.fixture
def client(aws):
    del aws  # its environment
    return botocore.session.get_session().create_client("secretsmanager")


def stored(client, text: str) -> tuple[str, str]:
    name = f"shop/{uuid.uuid4().hex[:8]}"
    return name, client.create_secret(Name=name, SecretString=text)["ARN"]


def test_a_text_and_a_value_of_an_object(client):
    name, arn = stored(client, "hunter2")
    assert is_reference(f"aws:{name}")
    assert secret(f"aws:{name}", "the password") == "hunter2"
    assert secret(f"aws:{arn}", "the password") == "hunter2"
    name, _ = stored(client, json.dumps({"user": "reader", "port": 5432}))
    assert secret(f"aws:{name}#user", "the user") == "reader"
    assert secret(f"aws:{name}#port", "the port") == "5432"
    with pytest.raises(SettingsError, match=r"with the password has no value 'password'; store a JSON object"):
        secret(f"aws:{name}#password", "the password")
    name, _ = stored(client, "no object")
    with pytest.raises(SettingsError, match="has no value 'user'") as raised:
        secret(f"aws:{name}#user", "the user")
    assert "no object" not in str(raised.value)


def test_a_rotated_secret_is_used_after_a_while(client, monkeypatch):
    name, _ = stored(client, "old")
    assert secret(f"aws:{name}", "the password") == "old"
    client.put_secret_value(SecretId=name, SecretString="new")
    assert secret(f"aws:{name}", "the password") == "old"
    monkeypatch.setattr(secrets_manager, "KEPT_S", -1.0)
    assert secret(f"aws:{name}", "the password") == "new"


def test_a_secret_that_cannot_be_read(client, monkeypatch):
    with pytest.raises(
        SettingsError, match=r"'nope' with the password cannot be read: got ResourceNotFound.*; check its"
    ):
        secret("aws:nope", "the password")
    name = f"shop/{uuid.uuid4().hex[:8]}"
    client.create_secret(Name=name, SecretBinary=b"\x00")
    with pytest.raises(SettingsError, match="cannot be read: got bytes; store it as text"):
        secret(f"aws:{name}", "the password")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(SettingsError, match=r"specify a region.*; set AWS_REGION and the credentials"):
        secret("aws:other", "the password")


@pytest.mark.usefixtures("aws")
def test_a_server_that_does_not_answer_may_answer_later(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UnavailableError, match="'shop' with the password cannot be read: got Could not connect"):
        secret("aws:shop", "the password")


@pytest.mark.parametrize(
    ("name", "region"),
    [
        ("arn:aws:secretsmanager:eu-central-1:123456789012:secret:shop-AbCdEf", "eu-central-1"),
        ("arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:shop-AbCdEf", "cn-north-1"),
        ("arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:shop-AbCdEf", "us-gov-west-1"),
        ("shop/password", None),
        ("arn:of/something", None),
    ],
)
def test_the_region_is_that_of_the_secret(name, region):
    assert secrets_manager.region_of(name) == region
