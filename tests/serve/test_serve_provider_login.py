"""Signing in at an identity provider: by one on loopback that a test scripts, and by a certified one."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from cluster.local.ports import unused_port
from pipeline.core.errors import SettingsError
from serve import create_app
from serve.deployment.direct import DirectServer
from tests.rigs.npm_programs import npm_file
from tests.rigs.streams import started
from tests.serve.conftest import TestClient, open_cafe, problem_of
from tests.serve.test_serve_tokens import AUDIENCE, POLICIES, define, provider_on_loopback, trust

SESSION, STATE = "__Host-headwater-session", "__Host-headwater-provider"
LOGIN = """\
oidc_client_id = "pages"
oidc_client_secret = "${PAGES_SECRET}"
oidc_login = { scope = "openid hw:read", resource = "https://data.example.com" }
"""


def sign_in_at(cafe, issuer):
    trust(cafe, issuer)
    toml = cafe.root / "headwater.toml"
    toml.write_text(toml.read_text() + LOGIN)


@pytest.fixture(scope="module")
def provider():
    with provider_on_loopback() as provider:
        provider.configuration |= {
            "authorization_endpoint": f"{provider.issuer}/auth",
            "token_endpoint": f"{provider.issuer}/token",
        }
        yield provider


@pytest.fixture(scope="module")
def cafe(tmp_path_factory, provider):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAGES_SECRET", "s e/cret")
        cafe = open_cafe(tmp_path_factory.mktemp("cafe"))
        sign_in_at(cafe, provider.issuer)
        yield cafe


@pytest.fixture
def browser(cafe):
    with TestClient(create_app(cafe.project()), base_url="https://testserver") as client:
        client.follow_redirects = False
        yield client


class Codes:
    """The token endpoint: it gives a token for a code once, to who knows its verifier."""

    def __init__(self, provider, **claims):
        self.provider = provider
        self.claims = claims
        self.challenges = {}
        self.forms = []

    def issue(self, address):
        words = dict(parse_qsl(urlsplit(address).query))
        code = f"code-{len(self.challenges)}"
        self.challenges[code] = words["code_challenge"]
        return code, words

    def __call__(self, form, headers):
        self.forms.append((form, headers["Authorization"]))
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        if self.challenges.pop(form.get("code"), None) != base64.urlsafe_b64encode(digest).decode().rstrip("="):
            return 400, {"error": "invalid_grant"}
        return 200, {"access_token": self.provider.token(**self.claims), "token_type": "Bearer"}


@pytest.fixture
def codes(provider):
    codes = Codes(provider)
    provider.exchange = codes
    yield codes
    del provider.exchange


def come_back(client, code, state):
    return client.get("/login/callback", params={"code": code, "state": state})


def test_people_sign_in_at_the_provider(browser, codes, provider):
    page = browser.get("/login").text
    assert f'href="login/provider">Sign in at {urlsplit(provider.issuer).netloc}</a>' in page
    codes.claims = {"name": "Ann", "exp": int(time.time()) + 300}
    sent = browser.get("/login/provider")
    assert sent.status_code == 303
    code, words = codes.issue(sent.headers["location"])
    assert sent.headers["location"].startswith(f"{provider.issuer}/auth?")
    assert words | {"state": "", "code_challenge": ""} == {
        "scope": "openid hw:read",
        "resource": AUDIENCE,
        "response_type": "code",
        "client_id": "pages",
        "redirect_uri": "https://testserver/login/callback",
        "code_challenge_method": "S256",
        "state": "",
        "code_challenge": "",
    }
    answer = come_back(browser, code, words["state"])
    assert (answer.status_code, answer.headers["location"]) == (303, "../docs")
    ((form, authorization),) = codes.forms
    assert authorization == f"Basic {base64.b64encode(b'pages:s%20e%2Fcret').decode()}"
    assert form["redirect_uri"] == words["redirect_uri"]
    assert form["resource"] == AUDIENCE
    told = browser.get("/session").json()
    assert (told["signed_in"], told["name"]) == (True, "Ann")
    assert told["expires_at"] <= time.time() + 300, "as its token"
    assert browser.get("/v1/tables/guests").status_code == 200
    assert STATE not in browser.cookies
    again = come_back(browser, code, words["state"])
    assert again.status_code == 403, "a sign-in is completed once"


def test_a_sign_in_that_another_browser_began_is_refused(cafe, browser, codes):
    """Otherwise someone would work in the session of an attacker, who sends the address with the code."""
    code, words = codes.issue(browser.get("/login/provider").headers["location"])
    with TestClient(create_app(cafe.project()), base_url="https://testserver") as other:
        other.follow_redirects = False
        assert come_back(other, code, words["state"]).status_code == 403, "it began none"
        other.get("/login/provider")
        assert come_back(other, code, words["state"]).status_code == 403, "it began another one"
        assert SESSION not in other.cookies
    assert codes.forms == [], "the provider was not asked"
    browser.get("/login/provider")
    assert come_back(browser, code, words["state"]).status_code == 403, "it began a later one"


@pytest.mark.parametrize(
    "parameters",
    [{}, {"state": ""}, {"state": "x", "code": "y"}, {"error": "access_denied", "error_description": "<b>no</b>"}],
)
def test_what_does_not_come_from_a_sign_in(browser, parameters):
    browser.get("/login/provider")
    answer = browser.get("/login/callback", params=parameters)
    assert (answer.status_code, SESSION in browser.cookies) == (403, False)
    assert "<b>" not in answer.text


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://other.example"},
        {"iss": "https://evil.example"},
        {"exp": 1},
        {"sub": ""},
        {"header": {"alg": "none"}},
    ],
)
def test_tokens_that_are_not_for_these_endpoints(browser, codes, claims):
    if "header" in claims:
        codes.claims = {"header": {"typ": "ID"}}  # an ID token is no access token
    else:
        codes.claims = claims
    code, words = codes.issue(browser.get("/login/provider").headers["location"])
    answer = come_back(browser, code, words["state"])
    assert (answer.status_code, SESSION in browser.cookies) == (403, False)
    assert "did not let you in" in answer.text


@pytest.mark.parametrize(
    "answer", [(200, {}), (200, []), (200, {"access_token": 1}), (401, {"error": "invalid_client"})]
)
def test_a_provider_that_gives_no_token(browser, provider, codes, answer):
    code, words = codes.issue(browser.get("/login/provider").headers["location"])
    provider.exchange = lambda *_: answer
    assert come_back(browser, code, words["state"]).status_code == 403
    provider.exchange = codes


def test_a_provider_that_does_not_answer(browser, provider, codes):
    code, words = codes.issue(browser.get("/login/provider").headers["location"])
    provider.exchange = lambda *_: (500, {})
    answer = come_back(browser, code, words["state"])
    assert answer.status_code == 503
    assert problem_of(answer)["problem"] == "the identity provider does not answer"
    provider.exchange = codes


@pytest.mark.parametrize("address", [None, 7, "http://other.example/auth", "javascript:alert(1)"])
def test_addresses_that_are_not_secure(browser, provider, address):
    right = provider.configuration["authorization_endpoint"]
    try:
        provider.configuration["authorization_endpoint"] = address
        assert browser.get("/login/provider").status_code == 503
    finally:
        provider.configuration["authorization_endpoint"] = right


def test_without_a_client_there_is_no_such_page(tmp_path):
    cafe = open_cafe(tmp_path)
    with TestClient(create_app(cafe.project())) as client:
        assert client.get("/login/provider").status_code == 404
        assert 'class="provider"' not in client.get("/login").text


def test_the_secret_is_not_in_the_file(tmp_path, at):
    (tmp_path / "x.py").write_text("")
    (tmp_path / "headwater.toml").write_text(
        '[project]\nname = "x"\ndefinitions = "x.py"\n[env.dev.serve]\n'
        'oidc_issuer = "https://a.example"\noidc_audience = "x"\noidc_client_secret = "hunter2"\n'
    )
    with pytest.raises(SettingsError, match=r"'serve\.oidc_client_secret' contains a password in plain text") as raised:
        at(tmp_path).project()
    assert "hunter2" not in str(raised.value)


@contextmanager
def on_loopback(cafe):
    port = unused_port()
    app = create_app(cafe.project())
    server = DirectServer(app, "127.0.0.1", port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()
        app.state.backend.close()


@pytest.mark.proof
def test_people_sign_in_at_a_certified_provider(tmp_path, monkeypatch):
    """With its own pages, as a browser does it."""
    monkeypatch.setenv("PAGES_SECRET", "a secret of tests")
    packages, port = npm_file("oidc-provider/lib/index.js").parents[2], unused_port()
    issuer, cafe = f"http://127.0.0.1:{port}", open_cafe(tmp_path)
    sign_in_at(cafe, issuer)
    define(cafe, POLICIES.replace('roles="staff"', 'roles="pages"'))
    program = str(Path(__file__).parents[1] / "rigs" / "oidc_provider.mjs")
    with on_loopback(cafe) as url:
        command = [shutil.which("node"), program, str(packages), str(port), f"{url}/login/callback"]
        with started(command, port), httpx.Client(follow_redirects=True) as web:
            page = web.get(f"{url}/login/provider")
            for fields in ({"prompt": "login", "login": "ann", "password": "any"}, {"prompt": "consent"}):
                action = re.search(r'action="([^"]+)"', page.text)[1]
                page = web.post(httpx.URL(page.url).join(action), data=fields)
            assert page.url == f"{url}/docs", page.text
            told = web.get(f"{url}/session").json()
            assert told["signed_in"]
            assert told["expires_at"] <= time.time() + 300
            rows = web.get(f"{url}/v1/tables/cafe_orders").json()["rows"]
            assert [row["guest"] for row in rows] == ["Bo"], "by the claims of the token"
            web.post(f"{url}/logout", headers={"X-CSRF-Token": told["csrf_token"]})
            assert web.get(f"{url}/session").json() == {"signed_in": False}
