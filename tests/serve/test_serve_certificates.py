"""The direct port and Flight SQL with TLS, and clients that show certificates instead of keys."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta

import adbc_driver_flightsql.dbapi as driver
import httpx
import pytest
from adbc_driver_flightsql import DatabaseOptions

from cluster.local.kafka.certificates import CertificateAuthority
from cluster.local.ports import unused_port
from pipeline.core.errors import RequestError, SettingsError
from pipeline.core.serve_settings import CertificateRights
from serve.access.certificates import Certificates, ClientCertificate
from serve.deployment.direct import DirectServer
from serve.flight.server import FlightServer
from serve.http_errors import UnauthenticatedError
from serve.tls import TlsFiles
from tests.serve.conftest import open_cafe

NAME = "spiffe://acme.example/reports"
SETTINGS = f"""
[env.dev.serve.certificates."{NAME}"]
roles = ["staff"]
scopes = ["read", "query"]
claims = {{ guest = "Bo" }}
[env.dev.serve.certificates."guests.acme.example"]
scopes = ["read:guests"]
"""
POLICIES = """
from pipeline import access_policy

for_staff = access_policy("cafe_orders", roles="staff", rows="guest = claim('guest')")
public = access_policy("cups", public=True)
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return CertificateAuthority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls(authority):
    file = str(authority.issue("server", ("localhost", "127.0.0.1")))
    return TlsFiles(file, file, str(authority.file))


@pytest.fixture(scope="module")
def cafe(tmp_path_factory):
    cafe = open_cafe(tmp_path_factory.mktemp("cafe"))
    toml, definitions = cafe.root / "headwater.toml", cafe.root / "cafe.py"
    toml.write_text(toml.read_text() + SETTINGS)
    definitions.write_text(definitions.read_text(encoding="utf-8") + POLICIES, encoding="utf-8")
    return cafe


@pytest.fixture(scope="module")
def app(cafe):
    with cafe.client(key="") as client:
        yield client.app


@pytest.fixture(scope="module")
def address(app, tls):
    port = unused_port()
    server = DirectServer(app, "127.0.0.1", port, tls)
    yield f"https://127.0.0.1:{port}"
    server.close()


def asked(address, authority, path, certificate=None, **options):
    context = ssl.create_default_context(cafile=authority.file)
    if certificate is not None:
        context.load_cert_chain(certificate)
    with httpx.Client(verify=context) as client:
        return client.get(address + path, **options)


def test_a_certificate_reads_what_its_name_may(address, authority):
    reports = authority.issue("reports", ("other.example", NAME))
    rows = asked(address, authority, "/v1/tables/cafe_orders", reports).json()["rows"]
    assert [row["guest"] for row in rows] == ["Bo"]
    guests = authority.issue("guests", ("guests.acme.example",))
    assert asked(address, authority, "/v1/tables/guests", guests).status_code == 200
    assert asked(address, authority, "/v1/tables/cafe_orders", guests).status_code == 404


def test_without_a_certificate_keys_count_and_public_tables_are_read(address, authority, cafe):
    assert asked(address, authority, "/v1/tables/cups").status_code == 200
    assert asked(address, authority, "/v1/tables/guests").status_code == 404
    key = {"Authorization": f"Bearer {cafe.key(scopes=['read'])}"}
    assert asked(address, authority, "/v1/tables/guests", headers=key).status_code == 200


def test_a_key_counts_before_the_certificate(address, authority, cafe):
    reports = authority.issue("reports again", (NAME,))
    key = {"Authorization": f"Bearer {cafe.key(scopes=['predict'])}"}
    assert asked(address, authority, "/v1/tables/guests", reports, headers=key).status_code == 404
    wrong = asked(address, authority, "/v1/tables/guests", reports, headers={"Authorization": "Bearer hw_wrong"})
    assert wrong.status_code == 401


@pytest.mark.parametrize("names", [(), ("unknown.example",), ("10.1.2.3",), ("spiffe://acme.example/reports/more",)])
def test_a_certificate_without_a_known_name_is_refused(address, authority, names):
    answer = asked(address, authority, "/v1/tables/cups", authority.issue(NAME, names))
    assert answer.status_code == 401
    assert answer.json()["detail"] == "the certificate of the client has no name that is known"


def test_certificates_of_others_and_expired_ones_do_not_connect(address, authority, tmp_path):
    stranger = CertificateAuthority(tmp_path, "other CA").issue("reports", (NAME,))
    expired = authority.issue("late", (NAME,), ends=datetime.now(UTC) - timedelta(days=1))
    for certificate in (stranger, expired):
        with pytest.raises(httpx.TransportError):
            asked(address, authority, "/v1/tables/cups", certificate)


def test_a_name_in_a_header_is_no_certificate(address, authority):
    headers = {"X-Forwarded-Client-Cert": f"URI={NAME}", "headwater.certificate": NAME, "X-Client-Cert": NAME}
    assert asked(address, authority, "/v1/tables/guests", headers=headers).status_code == 404


def test_a_certificate_ends_while_its_connection_lasts():
    now = [time.time()]
    certificates = Certificates({NAME: CertificateRights()}, lambda: now[0])
    shown = ClientCertificate((NAME,), now[0] + 10)
    assert certificates.caller(shown).scopes == ("read",)
    now[0] += 10
    with pytest.raises(UnauthenticatedError, match="expired"):
        certificates.caller(shown)


def test_flight_sql_with_tls(app, cafe, authority, tls):
    server = FlightServer(app.state.backend, "127.0.0.1", 0, tls)
    try:
        options = {
            DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {cafe.key(scopes=['read', 'query'])}",
            DatabaseOptions.TLS_ROOT_CERTS.value: authority.file.read_text(),
        }
        address = f"grpc+tls://127.0.0.1:{server.port}"
        with driver.connect(address, db_kwargs=options, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("select count(*) as n from guests")
            assert cursor.fetch_arrow_table().to_pylist() == [{"n": 5}]
    finally:
        server.close()


def test_files_that_cannot_be_used_are_errors(authority, tls, tmp_path):
    (tmp_path / "text.pem").write_text("no certificate")
    other = str(authority.issue("other"))
    for files in (
        TlsFiles(str(tmp_path / "none.pem"), tls.key),
        TlsFiles(tls.certificate, str(tmp_path / "text.pem")),
        TlsFiles(str(authority.file), other),
        TlsFiles(tls.certificate, tls.key, str(tmp_path / "text.pem")),
    ):
        with pytest.raises(RequestError, match="files for TLS cannot be used"):
            files.context()
    tls.context()


@pytest.mark.parametrize(
    "line", ['role = ["a"]', 'roles = "a"', "roles = [1]", 'claims = ["a"]', "claims = {a = 1}", 'scopes = [""]']
)
def test_settings_of_certificates_are_checked(tmp_path, at, line):
    (tmp_path / "headwater.toml").write_text(
        f'[project]\nname = "x"\ndefinitions = "x.py"\n[env.dev.serve.certificates."a.example"]\n{line}\n'
    )
    (tmp_path / "x.py").write_text("")
    with pytest.raises(SettingsError, match=r"serve\.certificates\.a\.example"):
        at(tmp_path).project()


def test_a_scope_that_is_unknown_is_an_error():
    with pytest.raises(RequestError, match="unknown scope"):
        Certificates({NAME: CertificateRights(scopes=("reads",))})
