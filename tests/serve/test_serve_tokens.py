"""Tokens of an identity provider: what they allow, and the ways in which forged ones are refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from cluster.local.ports import unused_port
from pipeline.core.errors import SettingsError
from pipeline.core.serve_settings import ServeSettings
from pipeline.governance.audit_records import records
from serve.access.tokens import ProviderTokens
from serve.http_errors import OverloadError, UnauthenticatedError
from tests.rigs.npm_programs import npm_file
from tests.rigs.streams import started
from tests.serve.conftest import open_cafe, problem_of

AUDIENCE = "https://data.example.com"
POLICIES = """
from pipeline import access_policy

for_staff = access_policy("cafe_orders", roles="staff", rows="guest = claim('guest')", hide="price")
for_teams = access_policy("cafe_orders", roles="teams", rows="list_contains(claims('guests'), guest)")
nobody_else = access_policy("cafe_orders", roles="nobody")
"""


class Provider:
    """An identity provider on loopback: its configuration, its keys, and tokens that it signs."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.issuer = f"http://127.0.0.1:{server.server_port}"
        self.keys = {
            "rsa": RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"}),
            "ec": ECKey.generate_key("P-256", {"kid": "ec"}),
            "ed": OKPKey.generate_key("Ed25519", {"kid": "ed"}),
        }
        self.published = [key.as_dict(private=False) for key in self.keys.values()]
        self.configuration: object = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        self.is_up = True
        self.asked: list[str] = []

    def answer(self, path: str) -> object:
        self.asked.append(path)
        return self.configuration if path.startswith("/.well-known/") else {"keys": self.published}

    def exchange(self, form, headers) -> tuple[int, object]:
        """The response of the token endpoint; a test may replace it."""
        del form, headers
        return 400, {"error": "invalid_grant"}

    def claims(self, **changed) -> dict[str, object]:
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 600, "scope": "hw:read"}
        return {name: value for name, value in (claims | changed).items() if value is not None}

    def token(self, key="rsa", header=None, **changed) -> str:
        algorithm = {"rsa": "RS256", "ec": "ES256", "ed": "Ed25519"}[key]
        full = {"alg": algorithm, "typ": "at+jwt", "kid": key, **(header or {})}
        return signed(full, self.claims(**changed), self.keys[key])


def signed(header, claims, key) -> str:
    header = {name: value for name, value in header.items() if value is not None}
    registry = _Lenient(algorithms=[header["alg"]], strict_check_header=False)
    return jws.serialize_compact(header, json.dumps(claims), key, registry=registry)


class _Lenient(jws.JWSRegistry):
    max_header_length = max_payload_length = 1 << 20

    def get_alg(self, name):
        return self.algorithms[name]

    def check_header(self, header):
        """Sign any."""


@contextmanager
def provider_on_loopback():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(made.answer(self.path)).encode()
            self.send_response(200 if made.is_up else 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            status, answer = made.exchange({name: values[0] for name, values in form.items()}, self.headers)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Provider(server)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def provider():
    with provider_on_loopback() as made:
        yield made


@pytest.fixture
def own_provider():
    """A provider for a test that changes it."""
    with provider_on_loopback() as made:
        yield made


@pytest.fixture
def verifier():
    made = []

    def of(provider, clock=time.time, **settings):
        made.append(
            ProviderTokens(
                ServeSettings(**{"oidc_issuer": provider.issuer, "oidc_audience": AUDIENCE, **settings}), clock
            )
        )
        return made[-1]

    yield of
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def app(provider, tmp_path_factory):
    cafe = open_cafe(tmp_path_factory.mktemp("cafe"))
    trust(cafe, provider.issuer)
    define(cafe, POLICIES)
    with cafe.client(key="") as client:
        yield client


def trust(cafe, issuer):
    toml = cafe.root / "headwater.toml"
    toml.write_text(f'{toml.read_text()}oidc_issuer = "{issuer}"\noidc_audience = "{AUDIENCE}"\n')


def define(cafe, more):
    definitions = cafe.root / "cafe.py"
    definitions.write_text(definitions.read_text(encoding="utf-8") + more, encoding="utf-8")


def sent(token):
    return {"Authorization": f"Bearer {token}"}


def test_roles_scopes_and_claims_of_a_token_decide_what_it_reads(app, provider):
    token = provider.token(roles=["staff"], guest="Bo")
    answer = app.get("/v1/tables/cafe_orders", headers=sent(token))
    assert answer.status_code == 200, answer.text
    assert [row["order_id"] for row in answer.json()["rows"]] == [2]
    assert "price" not in answer.json()["rows"][0]
    teams = provider.token(roles="teams other", guests=["Ann", "Bo"])
    rows = app.get("/v1/tables/cafe_orders", headers=sent(teams)).json()["rows"]
    assert [row["order_id"] for row in rows] == [1, 2]
    assert app.get("/v1/tables/cafe_orders", headers=sent(provider.token())).status_code == 404
    basic = base64.b64encode(f"ann:{token}".encode()).decode()
    assert app.get("/v1/tables/cafe_orders", headers={"Authorization": f"Basic {basic}"}).status_code == 200


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ("hw:read", 200),
        ("openid hw:read:guest*", 200),
        ("read", 404),
        ("hw:read:orders", 404),
        ("hw:predict", 404),
        ("hw:everything hw:read:", 404),
        ("", 404),
        (None, 404),
    ],
)
def test_only_scopes_of_headwater_count(app, provider, scope, status):
    assert app.get("/v1/tables/guests", headers=sent(provider.token(scope=scope))).status_code == status
    listed = None if scope is None else scope.split(" ")
    assert app.get("/v1/tables/guests", headers=sent(provider.token(scope=listed))).status_code == status


def test_a_token_asks_in_sql_and_graphql_and_is_in_the_audit_log(provider, tmp_path):
    cafe = open_cafe(tmp_path)
    trust(cafe, provider.issuer)
    token = provider.token(sub="carl", name="Carl", scope="hw:read hw:query")
    with cafe.client(key="") as client:
        asked = client.post("/v1/query", json={"sql": "select count(*) as n from guests"}, headers=sent(token))
        assert asked.json()["rows"] == [{"n": 5}]
        graph = client.post("/v1/graphql", json={"query": "{ __typename }"}, headers=sent(token))
        assert graph.status_code == 200, graph.text
    found = list(records(tmp_path / ".headwater" / "audit" / "dev"))
    assert [(each["caller"], each["caller_kind"], each["caller_name"]) for each in found] == [
        ("carl", "token", "Carl")
    ] * 2


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def raw(header, payload, sign=lambda _: b"") -> str:
    signing = ".".join(encoded(json.dumps(each).encode()) for each in (header, payload))
    return f"{signing}.{encoded(sign(signing.encode()))}"


def hs256(secret):
    return lambda signing: hmac.new(secret, signing, hashlib.sha256).digest()


OTHER = RSAKey.generate_key(2048, {"kid": "rsa"})
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 - which is refused


def _header(**changed):
    return {"alg": "RS256", "typ": "at+jwt", "kid": "rsa", **changed}


def _changed(token: str) -> str:
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return f"{header}.{encoded(json.dumps(claims | {'sub': 'root'}).encode())}.{signature}"


FORGED = {
    "no algorithm": lambda p: raw({"alg": "none", "typ": "at+jwt", "kid": "rsa"}, p.claims()),
    "no algorithm in other case": lambda p: raw({"alg": "nOnE", "typ": "at+jwt", "kid": "rsa"}, p.claims()),
    "no algorithm with the signature of another": lambda p: raw(_header(alg="none"), p.claims(), lambda _: b"x" * 256),
    "HS256 with the public key as PEM": lambda p: raw(
        _header(alg="HS256"), p.claims(), hs256(p.keys["rsa"].as_pem(private=False))
    ),
    "HS256 with the public key as JSON": lambda p: raw(
        _header(alg="HS256"), p.claims(), hs256(json.dumps(p.published[0]).encode())
    ),
    "HS256 with an empty secret": lambda p: raw(_header(alg="HS256"), p.claims(), hs256(b"")),
    "HS256 with a symmetric key that is published": lambda p: signed(
        _header(alg="HS256", kid="oct"), p.claims(), OctKey.import_key(b"s" * 32)
    ),
    "an embedded key": lambda p: signed(_header(jwk=OTHER.as_dict(private=False)), p.claims(), OTHER),
    "an embedded key without an id": lambda p: signed(
        _header(kid=None, jwk=OTHER.as_dict(private=False)), p.claims(), OTHER
    ),
    "the address of a key": lambda p: signed(_header(jku="http://127.0.0.1:9/keys"), p.claims(), OTHER),
    "the address of a certificate": lambda p: signed(_header(x5u="http://127.0.0.1:9/cert"), p.claims(), OTHER),
    "another key with the same id": lambda p: signed(_header(), p.claims(), OTHER),
    "the id of a key of another kind": lambda p: signed(_header(kid="ec"), p.claims(), p.keys["rsa"]),
    "an algorithm for another kind of key": lambda p: raw(_header(alg="ES256"), p.claims(), lambda _: b"x" * 64),
    "a curve of another algorithm": lambda p: raw(_header(alg="ES512", kid="ec"), p.claims(), lambda _: b"x" * 132),
    "zeros as the signature": lambda p: raw(_header(alg="ES256", kid="ec"), p.claims(), lambda _: bytes(64)),
    "an unknown key": lambda p: signed(_header(kid="unknown"), p.claims(), p.keys["rsa"]),
    "a key that is too short": lambda p: raw(
        _header(kid="weak"), p.claims(), lambda signing: WEAK.sign(signing, padding.PKCS1v15(), hashes.SHA256())
    ),
    "a key for encryption": lambda p: signed(_header(kid="for encryption"), p.claims(), OTHER),
    "a path as the id of a key": lambda p: signed(_header(kid="../../../../dev/null"), p.claims(), p.keys["rsa"]),
    "SQL as the id of a key": lambda p: signed(_header(kid="x' union select 'rsa"), p.claims(), p.keys["rsa"]),
    "a list as the id of a key": lambda p: raw(_header(kid=["rsa"]), p.claims()),
    "no id of a key": lambda p: p.token(header={"kid": None}),
    "no type": lambda p: p.token(header={"typ": None}),
    "an ID token's type": lambda p: p.token(header={"typ": "id+jwt"}),
    "a logout token's type": lambda p: p.token(header={"typ": "logout+jwt"}),
    "an unknown extension": lambda p: p.token(header={"crit": ["exp2"], "exp2": 1}),
    "a known extension": lambda p: p.token(header={"crit": ["b64"], "b64": True}),
    "an empty list of extensions": lambda p: p.token(header={"crit": []}),
    "claims that were changed": lambda p: _changed(p.token()),
    "no signature": lambda p: p.token().rpartition(".")[0] + ".",
    "two parts": lambda p: p.token().rpartition(".")[0],
    "five parts": lambda p: p.token() + ".a.b",
    "a list as the header": lambda p: raw(["alg"], p.claims()),
    "a text as the header": lambda p: raw("alg", p.claims()),
    "a number as the header": lambda p: raw(5, p.claims()),
    "a list as the claims": lambda p: signed(_header(), [], p.keys["rsa"]),
    "another issuer": lambda p: p.token(iss="https://evil.example"),
    "the issuer with a slash": lambda p: p.token(iss=p.issuer + "/"),
    "no issuer": lambda p: p.token(iss=None),
    "a list of issuers": lambda p: p.token(iss=[p.issuer]),
    "another audience": lambda p: p.token(aud="https://other.example.com"),
    "an audience that begins like ours": lambda p: p.token(aud=AUDIENCE + ".evil.example"),
    "other audiences": lambda p: p.token(aud=["a", "b"]),
    "no audience": lambda p: p.token(aud=None),
    "an empty list of audiences": lambda p: p.token(aud=[]),
    "expired": lambda p: p.token(exp=int(time.time()) - 31),
    "no end": lambda p: p.token(exp=None),
    "a text as the end": lambda p: p.token(exp="9999999999"),
    "an infinite end": lambda p: p.token(exp=float("inf")),
    "no number as the end": lambda p: p.token(exp=float("nan")),
    "true as the end": lambda p: p.token(exp=True),
    "not yet valid": lambda p: p.token(nbf=int(time.time()) + 60),
    "issued in the future": lambda p: p.token(iat=int(time.time()) + 3600),
    "no subject": lambda p: p.token(sub=None),
    "an empty subject": lambda p: p.token(sub=""),
    "a blank subject": lambda p: p.token(sub=" "),
    "a number as the subject": lambda p: p.token(sub=7),
    "longer than allowed": lambda p: p.token(padding="x" * 9000),
    "no token": lambda _: "eyJ",
    "not ASCII": lambda _: "é.é.é",
    "a nested header": lambda p: "W1tb" * 1200 + "." + p.token().split(".", 1)[1],
}


@pytest.fixture(scope="module")
def clean():
    """A verifier of a provider that publishes keys which must not be used, too."""
    with provider_on_loopback() as made:
        made.published += [
            {"kty": "oct", "kid": "oct", "k": base64.urlsafe_b64encode(b"s" * 32).decode()},
            {"kty": "RSA", "kid": "broken"},
            {"kty": "EC", "kid": 5},
            {
                "kty": "RSA",
                "kid": "weak",
                "e": "AQAB",
                "n": encoded(WEAK.public_key().public_numbers().n.to_bytes(128)),
            },
            OTHER.as_dict(private=False) | {"kid": "for encryption", "use": "enc"},
            "no key",
        ]
        tokens = ProviderTokens(ServeSettings(oidc_issuer=made.issuer, oidc_audience=AUDIENCE))
        yield made, tokens
        tokens.close()


@pytest.mark.parametrize("forged", FORGED)
def test_forged_tokens_are_refused(clean, forged):
    provider, tokens = clean
    assert tokens.verify(provider.token()).id == "ann"
    with pytest.raises(UnauthenticatedError):
        tokens.verify(FORGED[forged](provider))


@pytest.mark.parametrize("key", ["rsa", "ec", "ed"])
@pytest.mark.parametrize("kind", ["at+jwt", "application/at+jwt", "JWT", "jwt"])
def test_tokens_of_each_kind_of_key(clean, key, kind):
    provider, tokens = clean
    assert tokens.verify(provider.token(key, header={"typ": kind})).kind == "token"


def test_variants_that_are_valid(clean):
    provider, tokens = clean
    now = int(time.time())
    for token in (
        provider.token(aud=["other", AUDIENCE]),
        provider.token(exp=now - 25),
        provider.token(nbf=now + 25),
        provider.token(exp=10**400),
        provider.token("ed", header={"alg": "EdDSA"}),
        provider.token(header={"alg": "PS256"}),
        provider.token(header={"x5t": "abc", "nonce": "n"}),
    ):
        assert tokens.verify(token).id == "ann"


def test_claims_are_texts_and_lists_of_texts(clean, verifier):
    provider, _ = clean
    nested = verifier(provider, oidc_roles_claim="realm.roles", oidc_scopes_claim="https://x.example/scopes")
    token = provider.token(
        realm={"roles": ["a", 5, None, "b"]},
        level=3,
        is_admin=True,
        team=["x", 1, None, {}],
        none=None,
        **{"https://x.example/scopes": ["hw:query"]},
    )
    caller = nested.verify(token)
    assert (caller.roles, caller.scopes) == ({"a", "b"}, ("query",))
    assert (caller.claims["level"], caller.claims["is_admin"], caller.claims["team"]) == ("3", "true", ("x", "1"))
    assert not {"realm", "none"} & set(caller.claims)


class Clock:
    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


def test_keys_are_rotated_and_withdrawn_without_a_restart(own_provider, verifier):
    provider, clock = own_provider, Clock()
    tokens = verifier(provider, clock)
    old = provider.token()
    assert tokens.verify(old) is tokens.known(old)
    provider.keys["next"] = RSAKey.generate_key(2048, {"kid": "next"})
    provider.published.append(provider.keys["next"].as_dict(private=False))
    new = signed(_header(kid="next"), provider.claims(), provider.keys["next"])
    asked = len(provider.asked)
    for _ in range(20):  # tokens that name unknown keys do not make requests
        with pytest.raises(UnauthenticatedError):
            tokens.verify(new)
    assert len(provider.asked) == asked
    clock.now += 60
    assert tokens.verify(new).id == "ann"
    assert len(provider.asked) == asked + 2
    provider.published.pop(0)
    clock.now += 601 - 60
    assert tokens.known(old) is not None
    clock.now += 65
    assert tokens.known(old) is None  # the keys are read again first
    with pytest.raises(UnauthenticatedError):
        tokens.verify(provider.token(exp=int(clock.now) + 600))


def test_a_verdict_ends_with_its_token(own_provider, verifier):
    provider, clock = own_provider, Clock()
    tokens = verifier(provider, clock)
    token = provider.token(exp=int(clock.now) + 10)
    tokens.verify(token)
    clock.now += 38
    assert tokens.known(token) is not None
    clock.now += 3
    assert tokens.known(token) is None
    with pytest.raises(UnauthenticatedError, match="not valid"):
        tokens.verify(token)


def test_known_keys_stay_in_use_while_the_provider_is_down(own_provider, verifier):
    provider, clock = own_provider, Clock()
    provider.is_up = False
    tokens = verifier(provider, clock)
    with pytest.raises(OverloadError):
        tokens.verify(provider.token())
    provider.is_up = True
    clock.now += 60
    assert tokens.verify(provider.token()).id == "ann"
    provider.is_up = False
    clock.now += 700
    assert tokens.verify(provider.token(sub="bo", exp=int(clock.now) + 60)).id == "bo"
    with pytest.raises(OverloadError):
        tokens.verify(signed(_header(kid="next"), provider.claims(), OTHER))


@pytest.mark.parametrize(
    "configuration",
    [
        {"issuer": "https://evil.example"},
        {"jwks_uri": "http://169.254.169.254/latest"},
        {"jwks_uri": "https://10.0.0.1/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": None},
        [],
    ],
)
def test_a_configuration_of_another_issuer_or_host_is_not_used(own_provider, verifier, configuration):
    provider = own_provider
    changed = provider.configuration | configuration if configuration else configuration
    provider.configuration = changed
    with pytest.raises(OverloadError):
        verifier(provider).verify(provider.token())
    assert "/keys" not in provider.asked


def test_a_token_that_is_not_valid_is_a_401(app, provider):
    answer = app.get("/v1/tables", headers=sent(provider.token(aud="other")))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert problem_of(answer) == {
        "problem": "the token is not valid",
        "got": "invalid_claim",
        "do": "get a new one from the identity provider",
    }


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ('oidc_issuer = "https://a.example"', "tokens need both an issuer and an audience"),
        ('oidc_audience = "x"', "tokens need both an issuer and an audience"),
        ('oidc_roles_claim = "x"', "tokens need both an issuer and an audience"),
        ('oidc_issuer = "http://a.example"\noidc_audience = "x"', "'serve.oidc_issuer' must be the issuer's address"),
        (
            'oidc_issuer = "https://a.example?x"\noidc_audience = "x"',
            "'serve.oidc_issuer' must be the issuer's address",
        ),
        ('oidc_issuer = "https://a.example"\noidc_audience = " "', "'serve.oidc_audience' is empty"),
    ],
)
def test_settings_of_tokens_are_checked(tmp_path, at, settings, problem):
    (tmp_path / "headwater.toml").write_text(
        f'[project]\nname = "x"\ndefinitions = "x.py"\n[env.dev.serve]\n{settings}\n'
    )
    (tmp_path / "x.py").write_text("")
    with pytest.raises(SettingsError, match=problem):
        at(tmp_path).project()


@pytest.mark.proof
def test_tokens_of_a_certified_provider(tmp_path):
    packages = npm_file("oidc-provider/lib/index.js").parents[2]
    port = unused_port()
    issuer = f"http://127.0.0.1:{port}"
    command = [
        shutil.which("node"),
        str(Path(__file__).parents[1] / "rigs" / "oidc_provider.mjs"),
        str(packages),
        str(port),
    ]
    with started(command, port), httpx.Client() as web:

        def token(client, scope):
            form = {"grant_type": "client_credentials", "scope": scope}
            answer = web.post(f"{issuer}/token", data=form, auth=(client, "a secret of tests"))
            assert answer.status_code == 200, answer.text
            return answer.json()["access_token"]

        cafe = open_cafe(tmp_path)
        trust(cafe, issuer)
        define(cafe, POLICIES.replace('roles="staff"', 'roles="analyst"'))
        with cafe.client(key="") as client:
            analyst, operator = token("analyst", "hw:read hw:query"), token("operator", "hw:read")
            rows = client.get("/v1/tables/cafe_orders", headers=sent(analyst)).json()["rows"]
            assert [row["guest"] for row in rows] == ["Bo"]
            asked = {"sql": "select count(*) as n from cafe_orders"}
            assert client.post("/v1/query", json=asked, headers=sent(analyst)).json()["rows"] == [{"n": 1}]
            assert client.post("/v1/query", json=asked, headers=sent(operator)).status_code == 403
            assert client.get("/v1/tables/cafe_orders", headers=sent(operator)).status_code == 404
            assert client.get("/v1/tables/guests", headers=sent(operator)).status_code == 200
            stranger = client.get("/v1/tables/guests", headers=sent(token("stranger", "hw:read")))
            assert stranger.status_code == 401
