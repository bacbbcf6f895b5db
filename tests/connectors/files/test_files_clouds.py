"""Google Cloud Storage, Azure and FTP over TLS: which credentials, accounts and certificates are accepted."""

from __future__ import annotations

import json
import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest

from pipeline import files
from pipeline.connectors.files.remote_clients import RemoteClient
from pipeline.core.errors import SettingsError, SourceError, SourceUnavailableError
from tests.rigs.azure import ACCOUNT, KEY
from tests.rigs.azure import azurite as azurite  # noqa: PLC0414 - the fixture
from tests.rigs.file_servers import http_server
from tests.rigs.gcs import TOKEN
from tests.rigs.gcs import google_storage as google_storage  # noqa: PLC0414 - the fixture
from tests.rigs.remote_folders import read
from tests.rigs.tls_proxy import tls_proxy
from tests.rigs.weed import KEY as KEY_ID
from tests.rigs.weed import SECRET

pytest.importorskip("cryptography", reason="no certificates: pip install 'headwater[certificates]'")
from cluster.local.kafka.certificates import CertificateAuthority

CONTENT = b"id,name\n1,a\n"
ROWS = [(1, "a", 2)]


@pytest.fixture
def blobs(azurite):
    azurite.container("clouds").upload_blob("in/x.csv", CONTENT, overwrite=True)
    return azurite


@pytest.fixture
def objects(google_storage):
    for bucket in ("clouds", "public-data"):
        google_storage.create(bucket)
        google_storage.write(bucket, "in/x.csv", CONTENT)
    return google_storage


def test_credentials_of_google_are_references(objects, monkeypatch, tmp_path):
    monkeypatch.setenv("LANDING_TOKEN", TOKEN)
    (tmp_path / "token").write_text(TOKEN + "\n")
    for token in ("env:LANDING_TOKEN", f"file:{tmp_path / 'token'}", TOKEN):
        options = {"token": token, "endpoint_url": objects.endpoint}
        assert read(files("gs://clouds/in/*.csv", options=options)) == ROWS


def test_a_public_bucket_needs_no_credentials(objects):
    options = {"anon": "true", "endpoint_url": objects.endpoint}
    assert read(files("gs://public-data/in/*.csv", options=options)) == ROWS
    with pytest.raises(SourceError, match="the files cannot be listed: got Invalid Credentials, 401; check the URI"):
        files("gs://clouds/in/*.csv", options=options).plan(None)


@pytest.mark.parametrize(
    ("token", "got"),
    [
        ({"type": "external"}, "the type 'external'"),
        (
            {"type": "service_account", "private_key": "secret-key"},
            "Service account info was not in the expected format",
        ),
        (
            {"type": "authorized_user", "refresh_token": "secret-key"},
            "Authorized user info was not in the expected format",
        ),
        ('{"type": "service_account", secret-key', "Expecting property name enclosed in double quotes"),
    ],
)
def test_json_that_is_not_a_credential_of_google(token, got):
    text = token if isinstance(token, str) else json.dumps(token)
    with pytest.raises(SettingsError, match=f"the option 'token' is not a credential of Google: got {got}") as raised:
        files("gs://clouds/x.csv", options={"token": text}).plan(None)
    assert "secret-key" not in str(raised.value)


def test_the_key_of_a_service_account_is_used(objects):
    """Its token would come from Google's server, so the test has one of its own, which refuses it."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    known = {
        "type": "service_account",
        "client_email": "reader@example.com",
        "private_key": key.decode(),
        "token_uri": f"{objects.endpoint}/oauth2/token",
    }
    options = {"token": json.dumps(known), "endpoint_url": objects.endpoint}
    with pytest.raises(SourceError, match="the files cannot be listed: got Invalid Credentials, 401") as raised:
        files("gs://clouds/in/*.csv", options=options).plan(None)
    assert not isinstance(raised.value, SourceUnavailableError)


def test_a_signature_of_azure_is_enough(blobs):
    for scheme in ("az", "abfs", "abfss"):
        strings = f"BlobEndpoint={blobs.endpoint};SharedAccessSignature={blobs.sas('clouds')}"
        reader = files(f"{scheme}://clouds/in/*.csv", options={"connection_string": strings})
        assert read(reader) == ROWS
        assert "sig=" not in repr(reader)
    blobs.container("others")
    with pytest.raises(
        SourceError, match="the files cannot be listed: got Server failed to authenticate the request"
    ) as raised:
        files("az://others/*.csv", options={"connection_string": strings}).plan(None)
    assert "sig=" not in str(raised.value)


@pytest.mark.parametrize("credential", ["account_key", "sas_token"])
def test_an_account_in_the_uri_has_its_own_host(blobs, tmp_path, monkeypatch, credential):
    """The client has no other address for an account than one with TLS, so the test puts a proxy in front."""
    authority = CertificateAuthority(tmp_path)
    trusted = ssl.create_default_context(cafile=authority.file)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusted)
    with tls_proxy(blobs.port, authority.issue("server", ("127.0.0.1",))) as port:
        secret = KEY if credential == "account_key" else blobs.sas("clouds")
        options = {"account_host": f"127.0.0.1:{port}/{ACCOUNT}", credential: secret}
        for uri in (f"abfs://clouds@{ACCOUNT}.dfs.core.windows.net/in/*.csv", "az://clouds/in/*.csv"):
            account = {} if "@" in uri else {"account_name": ACCOUNT}
            assert read(files(uri, options={**options, **account})) == ROWS


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("abfs://box@acme.dfs.core.windows.net/x.csv", {"account_name": "acme"}),
        ("abfss://box@acme.blob.core.windows.net/x.csv", {"account_name": "acme"}),
        (
            "abfss://box@acme.dfs.core.usgovcloudapi.net/x.csv",
            {"account_name": "acme", "account_host": "acme.blob.core.usgovcloudapi.net"},
        ),
        (
            "abfs://box@onelake.dfs.fabric.microsoft.com/x.csv",
            {"account_name": "onelake", "account_host": "onelake.blob.fabric.microsoft.com"},
        ),
        ("az://box/x.csv", {}),
    ],
)
def test_the_account_is_that_of_the_uri(uri, options):
    client = RemoteClient.of(uri, {})
    assert (dict(client.options), client.path(uri)) == (options, "box/x.csv")


def test_azure_needs_an_account(monkeypatch):
    for name in ("ACCOUNT_NAME", "CONNECTION_STRING"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
    with pytest.raises(SettingsError, match=r"the files of Azure need an account; pass options=\{\"account_name"):
        files("az://box/x.csv").plan(None)


def test_a_damaged_connection_string_is_not_shown():
    with pytest.raises(SourceError, match=r"the files cannot be listed: got .*Connection string") as raised:
        files("az://box/x.csv", options={"connection_string": "AccountKey=c2VjcmV0"}).plan(None)
    assert "c2VjcmV0" not in str(raised.value)


def test_the_certificate_of_ftps_is_verified(file_servers, tmp_path):
    server = file_servers.server("ftps", tmp_path.name)
    (server.folder / "x.csv").write_bytes(CONTENT)
    uri, options = f"{server.uri}/*.csv", server.options
    assert read(files(uri, options=options)) == ROWS
    for ca in (CertificateAuthority(tmp_path, "other").file, None):
        trusted = {name: value for name, value in {**options, "ca": ca and str(ca)}.items() if value}
        with pytest.raises(SourceError, match=r"certificate of the server is not trusted: got .*self-signed") as raised:
            files(uri, options=trusted).plan(None)
        assert 'pass the authority that issued it: options={"ca": "ca.pem"}' in str(raised.value)
        assert not isinstance(raised.value, SourceUnavailableError)
    with pytest.raises(SourceError, match=r"not valid for 'localhost'.*; use a host of its certificate"):
        files(uri.replace("127.0.0.1", "localhost"), options=options).plan(None)
    with pytest.raises(SourceError, match=r"file of authorities cannot be read: got .*none\.pem"):
        files(uri, options={**options, "ca": str(tmp_path / "none.pem")}).plan(None)


def test_a_password_is_not_sent_to_a_server_without_tls(file_servers, tmp_path):
    server = file_servers.server("ftp", tmp_path.name)
    with pytest.raises(SourceError, match="the files cannot be listed: got 500 Command") as raised:
        files(server.uri.replace("ftp:", "ftps:") + "/x.csv", options={"password": "p", "username": "u"}).plan(None)
    assert not isinstance(raised.value, SourceUnavailableError)


@pytest.mark.parametrize("problem", ["unknown", "expired"])
def test_the_certificate_of_https_is_verified(tmp_path, problem):
    authority = CertificateAuthority(tmp_path)
    ends = datetime.now(UTC) - timedelta(days=1) if problem == "expired" else None
    options = {"ca": str(authority.file)} if problem == "expired" else {}
    with (
        socket.create_server(("127.0.0.1", 0)) as nothing,
        tls_proxy(nothing.getsockname()[1], authority.issue("server", ("127.0.0.1",), ends=ends)) as port,
    ):
        with pytest.raises(SourceError, match="the certificate of the server is not trusted") as raised:
            files(f"https://127.0.0.1:{port}/x.csv", options=options).plan(None)
        assert not isinstance(raised.value, SourceUnavailableError)
    do = "renew the certificate" if problem == "expired" else 'options={"ca": "ca.pem"}'
    assert do in str(raised.value)


def test_an_authority_of_one_s_own_is_accepted_by_https(tmp_path):
    (tmp_path / "x.csv").write_bytes(CONTENT)
    authority = CertificateAuthority(tmp_path)
    with http_server(tmp_path) as server:
        plain = int(server.uri.rpartition(":")[2])
        with tls_proxy(plain, authority.issue("server", ("127.0.0.1",))) as port:
            assert read(files(f"https://127.0.0.1:{port}/x.csv", options={"ca": str(authority.file)})) == ROWS


def test_certificates_of_s3_are_verified(tmp_path, s3):
    authority = CertificateAuthority(tmp_path)
    with tls_proxy(s3.port, authority.issue("server", ("127.0.0.1",))) as port:
        options = {"endpoint_url": f"https://127.0.0.1:{port}", "access_key_id": KEY_ID, "secret_access_key": SECRET}
        with pytest.raises(SourceError, match="the certificate of the server is not trusted") as raised:
            files("s3://lake/x.csv", options={**options, "max_retries": "0"}).plan(None)
    assert "the environment variable AWS_CA_BUNDLE" in str(raised.value)
    assert not isinstance(raised.value, SourceUnavailableError)


def test_transfers_resume_the_session_of_ftps(file_servers, tmp_path):
    server = file_servers.server("ftps", tmp_path.name)
    (server.folder / "x.csv").write_bytes(CONTENT)
    with RemoteClient.of(server.uri, server.options).connected() as client:
        data, _ = client.ftp.ntransfercmd(f"RETR /{tmp_path.name}/x.csv")
        with data:
            assert data.recv(100)
            assert data.session_reused
