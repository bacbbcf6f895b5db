"""The client in TypeScript compiles under strict rules, and reads what the server has."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from serve.typescript import typescript
from tests.rigs.http_faults import Reply, http_server
from tests.rigs.in_process_server import served
from tests.rigs.npm_programs import npm_file, npm_program
from tests.serve.conftest import open_cafe
from tests.serve.test_serve_entity_features import STAFF, built

USE = """
import { Headwater, HeadwaterError, Tables } from "./client.js";

const headwater = new Headwater(process.argv[2]!, process.argv[3]!);
const guests: (string | null)[] = [];
for await (const row of headwater.rows("cafe_orders", { limit: 2, order: "order_id", cups: ["gte.1", "lte.3"] })) {
  const cups: number | null = row.cups;
  guests.push(`${row.guest} ${cups}`);
}
let changes = 0;
for await (const change of headwater.changes("cafe_orders", 0)) changes += change._changed.length + (change.cups ?? 0);
const order: Tables["shapes"] = (await headwater.page("shapes", { limit: 1 })).rows[0]!;
const [most] = await headwater.query<{ most: number }>("select max(cups) as most from cafe_orders");
let refused = "";
try {
  await headwater.page("guests", { guest: "Bo" });
} catch (error) {
  if (error instanceof HeadwaterError) refused = `${error.status} ${error.message}`;
}
console.log(JSON.stringify({ guests, order: Object.keys(order).length, most: most?.most, changes, refused }));
"""
USE_BACKGROUND = """
import { Headwater, HeadwaterError } from "./client.js";

const headwater = new Headwater(process.argv[2]!, process.argv[3]!);
const id = await headwater.submit("select order_id from cafe_orders order by 1", 3);
const ids: number[] = [];
for await (const row of headwater.result<{ order_id: number }>(id)) ids.push(row.order_id);
const { is_truncated } = await headwater.queryStatus(id);
const errors: string[] = [];
const told = (error: unknown) => { if (error instanceof HeadwaterError) errors.push(`${error.status} ${error.message}`); };
await headwater.endQuery(id);
await headwater.queryStatus(id).catch(told);
const failed = await headwater.submit("select cast(guest as integer) as x from cafe_orders");
try {
  for await (const row of headwater.result(failed)) console.log(row);
} catch (error) {
  told(error);
}
console.log(JSON.stringify({ ids, is_truncated, errors }));
"""
USE_FEATURES = """
import { Entities, Headwater } from "./client.js";

const headwater = new Headwater(process.argv[2]!, process.argv[3]!);
const shop: Entities["shops"] = { region: "EU", day: "2026-01-03" };
const [few, none] = await headwater.features("customers", [{ customer: 3 }, { customer: 99 }], ["orders", "email"]);
const orders: number | null = few!.features.orders;
const [every] = await headwater.features("shops", [shop]);
const n: number | null = every!.features.n;
console.log(JSON.stringify({ orders, found: none!.found, time: few!.event_time, n, entity: every!.entity }));
"""
USE_AWAY = """
import { Headwater } from "./client.js";

const patient = new Headwater(process.argv[2]!, process.argv[3]!);
const { version } = await patient.page("cafe_orders");
let failed = "";
await new Headwater("http://127.0.0.1:1", "", 0).page("cafe_orders").catch((error: unknown) => (failed = String(error)));
console.log(JSON.stringify({ version, failed }));
"""
WRONG = """
import { Headwater } from "./client.js";

const headwater = new Headwater("", "");
for await (const row of headwater.rows("cafe_orders")) console.log(row.no_such_column);
await headwater.page("no_such_table");
"""
WRONG_FEATURES = """
import { Headwater } from "./client.js";

const headwater = new Headwater("", "");
const [found] = await headwater.features("customers", [{ customer: 3 }], ["orders"]);
console.log(found!.features.email);
await headwater.features("customers", [{ no_such_entity: 3 }]);
await headwater.features("no_such_view", []);
"""
OPTIONS = ["--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes", "--target", "es2022", "--module", "nodenext",
           "--skipLibCheck", "--types", "node"]  # fmt: skip


@pytest.fixture(scope="module")
def cafe(tmp_path_factory):
    return open_cafe(tmp_path_factory.mktemp("cafe"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return built(tmp_path_factory.mktemp("shop"))


def test_types_are_those_of_the_document(cafe):
    with cafe.client() as client:
        text = typescript(client.get("/openapi.json").json(), "http://x\n*/ evil")
    assert "http://x */ evil" in text.splitlines()[0]
    assert "  cafe_orders: {\n    order_id: number | null;\n    day: string | null;" in text
    assert '    "group by; \\" \\u00e9": string | null;' in text
    with cafe.client(key="") as client:
        assert "cafe_orders" not in typescript(client.get("/openapi.json").json(), "x")


def test_feature_views_have_types(shop):
    with shop.client(key=shop.key(**STAFF)) as client:
        text = typescript(client.get("/openapi.json").json(), "x")
    assert "  shops: {\n    region: string | null;\n    day: string | null;\n  };" in text
    assert "  shops: {\n    n: number | null;\n  };" in text


@pytest.mark.proof
def test_the_client_compiles_and_reads(cafe, tmp_path):
    prepared(cafe, cafe.key(), tmp_path)
    wrong = compiled(tmp_path, WRONG, "--noEmit")
    assert "no_such_column" in wrong
    assert "no_such_table" in wrong
    assert compiled(tmp_path, USE) == ""
    said = ran(cafe, cafe.key(), tmp_path)
    assert said == {
        "guests": ["Ann 1", "Bo 2", 'O\'Hara, "Kit" 3', "Žoë 🫖 1"],
        "order": 8,
        "most": 3,
        "changes": 0,
        "refused": "400 the filter on column 'guest' has no operator; got 'Bo'; write guest=OPERATOR.VALUE with one of eq, neq, gt, "
        "gte, lt, lte, like, ilike, match, imatch, in, is, isdistinct, cs, cd, ov, fts",
    }


@pytest.mark.proof
def test_the_client_runs_queries_in_the_background(cafe, tmp_path):
    prepared(cafe, cafe.key(), tmp_path)
    assert compiled(tmp_path, USE_BACKGROUND) == ""
    said = ran(cafe, cafe.key(), tmp_path)
    assert said["ids"] == [1, 2, 3]
    assert said["is_truncated"]
    gone, failed = said["errors"]
    assert gone.startswith("404 there is no such query")
    assert failed.startswith("0 the query cannot be computed")


@pytest.mark.proof
def test_the_client_looks_features_up(shop, tmp_path):
    key = shop.key(**STAFF)
    prepared(shop, key, tmp_path)
    wrong = compiled(tmp_path, WRONG_FEATURES, "--noEmit")
    assert all(word in wrong for word in ("'email' does not exist", "no_such_entity", "no_such_view"))
    assert compiled(tmp_path, USE_FEATURES) == ""
    assert ran(shop, key, tmp_path) == {
        "orders": 2,
        "found": False,
        "time": "2026-01-04T12:30:00",
        "n": 1,
        "entity": {"region": "EU", "day": "2026-01-03"},
    }


@pytest.mark.proof
def test_a_response_that_breaks_off_is_asked_for_again(cafe, tmp_path):
    prepared(cafe, cafe.key(), tmp_path)
    assert compiled(tmp_path, USE_AWAY) == ""
    page = {"table": "cafe_orders", "version": 7, "rows": [], "next": None}
    lost = Reply(b"Internal Server Error", 500, headers={"Content-Type": "text/plain"})
    with http_server() as server:
        server.script = [Reply(page, cut_at=5), Reply(closes=True), lost, Reply(b"", 503), Reply(page)]
        assert printed(tmp_path, server.url, "k") == {"version": 7, "failed": "TypeError: fetch failed"}
        assert [each.headers["authorization"] for each in server.received] == ["Bearer k"] * 5
        server.script = [Reply(page)]
        assert printed(tmp_path, server.url, "")["version"] == 7
        assert "authorization" not in server.received[-1].headers


def prepared(cafe, key, folder):
    """Write the client for a key into a folder where it can be compiled."""
    npm_program("tsc")
    (folder / "node_modules").symlink_to(npm_file("typescript").parent)
    (folder / "package.json").write_text('{"type": "module"}')
    with cafe.client(key=key) as client:
        (folder / "client.ts").write_text(typescript(client.get("/openapi.json").json(), "x"))


def compiled(folder, program, *more):
    """What the compiler says of a program."""
    (folder / "use.ts").write_text(program)
    words = [*npm_program("tsc"), *OPTIONS, *more, "use.ts"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False).stdout


def ran(cafe, key, folder):
    """What the compiled program prints, against a server of the project."""
    with served(cafe.project()) as url:
        return printed(folder, f"{url}/", key)


def printed(folder, url, key):
    words = [str(shutil.which("node")), "use.js", url, key]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
