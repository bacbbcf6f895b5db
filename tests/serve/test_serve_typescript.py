"""The client in TypeScript compiles under strict rules, and reads what the server has."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time

import pytest
import uvicorn

from serve import create_app
from serve.typescript import typescript
from tests.rigs.npm_programs import npm_file, npm_program
from tests.serve.conftest import open_cafe

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
WRONG = """
import { Headwater } from "./client.js";

const headwater = new Headwater("", "");
for await (const row of headwater.rows("cafe_orders")) console.log(row.no_such_column);
await headwater.page("no_such_table");
"""
OPTIONS = ["--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes", "--target", "es2022", "--module", "nodenext",
           "--skipLibCheck", "--types", "node"]  # fmt: skip


@pytest.fixture(scope="module")
def cafe(tmp_path_factory):
    return open_cafe(tmp_path_factory.mktemp("cafe"))


def test_types_are_those_of_the_document(cafe):
    with cafe.client() as client:
        text = typescript(client.get("/openapi.json").json(), "http://x\n*/ evil")
    assert "http://x */ evil" in text.splitlines()[0]
    assert "  cafe_orders: {\n    order_id: number | null;\n    day: string | null;" in text
    assert '    "group by; \\" \\u00e9": string | null;' in text
    with cafe.client(key="") as client:
        assert "cafe_orders" not in typescript(client.get("/openapi.json").json(), "x")


@pytest.mark.proof
def test_the_client_compiles_and_reads(cafe, tmp_path):
    compiler = npm_program("tsc")
    (tmp_path / "node_modules").symlink_to(npm_file("typescript").parent)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    with cafe.client() as client:
        (tmp_path / "client.ts").write_text(typescript(client.get("/openapi.json").json(), "x"))
    (tmp_path / "use.ts").write_text(USE)
    (tmp_path / "wrong.ts").write_text(WRONG)
    wrong = subprocess.run(
        [*compiler, *OPTIONS, "--noEmit", "wrong.ts"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "no_such_column" in wrong.stdout
    assert "no_such_table" in wrong.stdout
    right = subprocess.run([*compiler, *OPTIONS, "use.ts"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert right.returncode == 0, right.stdout
    server = uvicorn.Server(uvicorn.Config(create_app(cafe.project()), port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
        words = [str(shutil.which("node")), "use.js", url, cafe.key()]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    finally:
        server.should_exit = True
        thread.join()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        '{"guests":["Ann 1","Bo 2","O\'Hara, \\"Kit\\" 3","Žoë 🫖 1"],"order":8,"most":3,"changes":0,'
        "\"refused\":\"400 the filter on column 'guest' has no operator; got 'Bo'; write guest=OPERATOR.VALUE with one of eq, neq, gt, "
        'gte, lt, lte, like, ilike, match, imatch, in, is, isdistinct, cs, cd, ov, fts"}'
    )
