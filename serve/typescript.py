"""A typed client in TypeScript, made from the OpenAPI document of a server: for the tables and models that a key may use."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

_TABLE, _MODEL = re.compile(r"/v1/tables/([^/]+)"), re.compile(r"/v1/models/([^/]+)/predict")
_PLAIN = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_HEAD = """\
// The tables and models of {title}, as a caller of {url} sees them. Written by `headwater client`; do not edit.

{types}
export interface Page<Row> {{
  table: string;
  version: number;
  count?: number | null;
  rows: Row[];
  next: string | null;
}}

/** What happened to a row: an updated one is there as it was and as it is, with the columns that differ. */
export interface Change {{
  _change_type: "insert" | "delete" | "update_preimage" | "update_postimage";
  _changed: string[];
}}

/** Parameters in PostgREST's words: {{ select: "a,b", order: "a.desc", a: "gt.1", b: ["gte.1", "lt.9"] }}. */
export type Words = Record<string, string | number | string[]>;

/** The server refused a request: `status` is that of HTTP, and `got` and `do` say more. */
export class HeadwaterError extends Error {{
  constructor(readonly status: number, detail: string, readonly got?: string, readonly do_?: string) {{
    super([detail, got && `got ${{got}}`, do_].filter(Boolean).join("; "));
  }}
}}

export class Headwater {{
  constructor(private readonly url: string, private readonly key: string, private readonly patienceMs = 30_000) {{}}

  /** The rows of a table, page by page, all of one version. `limit` is the size of a page. */
  rows<Name extends keyof Tables>(table: Name, words: Words = {{}}): AsyncGenerator<Tables[Name]> {{
    return this.pages(`/v1/tables/${{encodeURIComponent(table)}}?${{query({{ limit: 1000, ...words }})}}`);
  }}

  /** The rows that differ from an earlier version, given by its number or a time. */
  changes<Name extends keyof Tables>(table: Name, since: number | string, words: Words = {{}}): AsyncGenerator<Change & Tables[Name]> {{
    return this.pages(`/v1/tables/${{encodeURIComponent(table)}}/changes?${{query({{ limit: 1000, ...words, since }})}}`);
  }}

  private async *pages<Row>(first: string): AsyncGenerator<Row> {{
    let next: string | null = first;
    while (next !== null) {{
      const page: Page<Row> = await this.send<Page<Row>>(next);
      yield* page.rows;
      next = page.next;
    }}
  }}

  /** One page of a table. */
  page<Name extends keyof Tables>(table: Name, words: Words = {{}}): Promise<Page<Tables[Name]>> {{
    return this.send(`/v1/tables/${{encodeURIComponent(table)}}?${{query(words)}}`);
  }}

  /** The rows of one SELECT, at most 10,000. The key needs the scope `query`. */
  async query<Row = Record<string, unknown>>(sql: string): Promise<Row[]> {{
    return (await this.send<{{ rows: Row[] }}>("/v1/query", {{ sql }})).rows;
  }}

  /** The predictions of a model for rows. The key needs the scope `predict`. */
  predict<Name extends keyof Models>(model: Name, rows: Models[Name][]): Promise<{{ predictions: Record<string, unknown>[]; version: string }}> {{
    return this.send(`/v1/models/${{encodeURIComponent(model)}}/predict`, {{ rows }});
  }}

  /** Send a request that changes nothing, again while the server is busy. */
  private async send<Answer>(path: string, body?: unknown): Promise<Answer> {{
    const until = Date.now() + this.patienceMs;
    for (let attempt = 0; ; attempt++) {{
      const response = await fetch(this.url.replace(/\\/$/, "") + path, {{
        method: body === undefined ? "GET" : "POST",
        headers: {{ Authorization: `Bearer ${{this.key}}`, Accept: "application/json", "Content-Type": "application/json" }},
        ...(body === undefined ? {{}} : {{ body: JSON.stringify(body) }}),
      }});
      if (response.ok) return (await response.json()) as Answer;
      const wait = 1000 * Number(response.headers.get("Retry-After") ?? 0) || Math.min(100 * 2 ** attempt, 5000);
      if (![429, 502, 503, 504].includes(response.status) || Date.now() + wait > until) {{
        const problem = (await response.json().catch(() => ({{}}))) as {{ detail?: string; got?: string; do?: string }};
        throw new HeadwaterError(response.status, problem.detail ?? response.statusText, problem.got, problem.do);
      }}
      await new Promise((resolve) => setTimeout(resolve, wait));
    }}
  }}
}}

function query(words: Words): string {{
  const pairs = Object.entries(words).flatMap(([name, value]) => [value].flat().map((each) => [name, String(each)] as [string, string]));
  return new URLSearchParams(pairs).toString();
}}
"""


def typescript(document: Mapping[str, Any], url: str) -> str:
    """Return the module: an interface for the rows of each table, and one for the input of each model."""
    tables: dict[str, Mapping[str, Any]] = {}
    models: dict[str, Mapping[str, Any]] = {}
    for path, methods in document["paths"].items():
        table, model = _TABLE.fullmatch(path), _MODEL.fullmatch(path)
        if table is not None:
            content = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            tables[unquote(table[1])] = content["properties"]["rows"]["items"]
        elif model is not None:
            body = methods["post"]["requestBody"]["content"]["application/json"]["schema"]
            models[unquote(model[1])] = body["properties"]["rows"]["items"]
    parts = [
        _interface(
            "Tables",
            "The rows of each table.",
            {name: _object(row, "  ", all_given=True) for name, row in tables.items()},
        ),
        _interface(
            "Models", "A row of the input of each model.", {name: _object(row, "  ") for name, row in models.items()}
        ),
    ]
    return _HEAD.format(title=_in_comment(document["info"]["title"]), url=_in_comment(url), types="\n".join(parts))


def _interface(name: str, comment: str, members: Mapping[str, str]) -> str:
    lines = "".join(f"  {_name(each)}: {kind};\n" for each, kind in members.items())
    return f"/** {comment} */\nexport interface {name} {{\n{lines}}}\n"


def _object(schema: Mapping[str, Any], indent: str, *, all_given: bool = False) -> str:
    """Return the type of an object; members that are not required are optional unless `all_given`."""
    required = schema.get("required", ())
    members = [
        f"{indent}  {_name(name)}{'' if all_given or name in required else '?'}: {_type(kind)};\n"
        for name, kind in schema.get("properties", {}).items()
    ]
    return "{\n" + "".join(members) + indent + "}" if members else "Record<string, unknown>"


def _type(schema: Mapping[str, Any]) -> str:
    kinds = schema.get("type", [])
    known = {"boolean": "boolean", "integer": "number", "number": "number", "string": "string", "null": "null"}
    types = [known.get(kind, "unknown") for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    return " | ".join(types) or "unknown"


def _name(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else json.dumps(name)


def _in_comment(text: str) -> str:
    return re.sub(r"[\r\n\u2028\u2029]", " ", text)
