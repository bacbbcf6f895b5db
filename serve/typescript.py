"""A typed client in TypeScript, made from the OpenAPI document of a server: for the tables, feature views and models that a key may use."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

_TABLE, _MODEL = re.compile(r"/v1/tables/([^/]+)"), re.compile(r"/v1/models/([^/]+)/predict")
_VIEW = re.compile(r"/v1/features/([^/]+)")
_PLAIN = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_HEAD = """\
// The tables, feature views and models of {title}, as a caller of {url} sees them. Written by `headwater client`; do not edit.

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

/** A statement in the background. */
export interface QueryStatus {{
  id: string;
  status: "queued" | "running" | "done" | "failed" | "cancelled";
  row_count: number;
  is_truncated: boolean;
  expires_at: string | null;
  problem?: Problem;
}}

/** The features of one entity; they are null if it is not found. */
export interface EntityFeatures<Entity, Values> {{
  entity: Entity;
  found: boolean;
  event_time: string | null;
  features: Values;
}}

interface Problem {{
  detail?: string;
  got?: string;
  do?: string;
}}

interface RequestParts {{
  body?: unknown;
  method?: "GET" | "POST" | "DELETE";
  headers?: Record<string, string>;
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
  /** `key` may be empty, for tables that are public. */
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
      const page: Pick<Page<Row>, "rows" | "next"> = await this.send<Page<Row>>(next);
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
    return (await this.send<{{ rows: Row[] }}>("/v1/query", {{ body: {{ sql }} }})).rows;
  }}

  /** Let one SELECT run in the background, with at most `limit` rows, and return its id. If the response is lost, it is submitted twice. */
  async submit(sql: string, limit: number | "all" = "all"): Promise<string> {{
    return (await this.send<QueryStatus>("/v1/query", {{ body: {{ sql, limit }}, headers: {{ Prefer: "respond-async" }} }})).id;
  }}

  /** The status of a query in the background. */
  queryStatus(id: string): Promise<QueryStatus> {{
    return this.send(`/v1/query/${{encodeURIComponent(id)}}`);
  }}

  /** The rows of a query in the background, page by page, as soon as it is done. */
  async *result<Row = Record<string, unknown>>(id: string): AsyncGenerator<Row> {{
    let status = await this.queryStatus(id);
    for (let waits = 0; status.status === "queued" || status.status === "running"; waits++) {{
      await sleep(Math.min(100 * 1.5 ** waits, 5000));
      status = await this.queryStatus(id);
    }}
    if (status.status !== "done") {{
      const problem = status.problem ?? {{}};
      throw new HeadwaterError(0, problem.detail ?? "the query was cancelled", problem.got, problem.do);
    }}
    yield* this.pages<Row>(`/v1/query/${{encodeURIComponent(id)}}/rows?limit=10000`);
  }}

  /** Cancel a query in the background, or remove its result. */
  endQuery(id: string): Promise<void> {{
    return this.send(`/v1/query/${{encodeURIComponent(id)}}`, {{ method: "DELETE" }});
  }}

  /** The features of entities, in their order; all features without `names`. */
  async features<Name extends keyof Entities & keyof Features, Feature extends keyof Features[Name] = keyof Features[Name]>(
    view: Name,
    entities: Entities[Name][],
    names: Feature[] = [],
  ): Promise<EntityFeatures<Entities[Name], Pick<Features[Name], Feature>>[]> {{
    type Answer = {{ rows: EntityFeatures<Entities[Name], Pick<Features[Name], Feature>>[] }};
    const body = names.length ? {{ entities, features: names }} : {{ entities }};
    return (await this.send<Answer>(`/v1/features/${{encodeURIComponent(view)}}`, {{ body }})).rows;
  }}

  /** The predictions of a model for rows. The key needs the scope `predict`. */
  predict<Name extends keyof Models>(model: Name, rows: Models[Name][]): Promise<{{ predictions: Record<string, unknown>[]; version: string }}> {{
    return this.send(`/v1/models/${{encodeURIComponent(model)}}/predict`, {{ body: {{ rows }} }});
  }}

  /** Send a request, again while the server is busy or away, or if its response breaks off: none does harm if it is sent twice. */
  private async send<Answer>(path: string, {{ body, method, headers }}: RequestParts = {{}}): Promise<Answer> {{
    const until = Date.now() + this.patienceMs;
    for (let attempt = 0; ; attempt++) {{
      let response: Response | undefined;
      let failure: unknown;
      try {{
        response = await fetch(this.url.replace(/\\/$/, "") + path, {{
          method: method ?? (body === undefined ? "GET" : "POST"),
          headers: {{
            ...(this.key ? {{ Authorization: `Bearer ${{this.key}}` }} : {{}}),
            Accept: "application/json",
            "Content-Type": "application/json",
            ...headers,
          }},
          ...(body === undefined ? {{}} : {{ body: JSON.stringify(body) }}),
        }});
        if (response.ok) return (response.status === 204 ? undefined : await response.json()) as Answer;
      }} catch (error) {{
        failure = error;
      }}
      const wait = 1000 * Number(response?.headers.get("Retry-After") ?? 0) || Math.min(100 * 2 ** attempt, 5000);
      const helps = response === undefined || response.ok || isAway(response);
      if (helps && Date.now() + wait <= until) {{
        await sleep(wait);
        continue;
      }}
      if (response === undefined || response.ok) throw failure;
      const problem = (await response.json().catch(() => ({{}}))) as Problem;
      throw new HeadwaterError(response.status, problem.detail ?? response.statusText, problem.got, problem.do);
    }}
  }}
}}

/** Whether a server is busy, or a proxy has lost the one behind it: those say 500 in plain text. */
function isAway(response: Response): boolean {{
  const isPlain = response.headers.get("Content-Type")?.startsWith("text/plain") ?? false;
  return [429, 502, 503, 504].includes(response.status) || (response.status === 500 && isPlain);
}}

function sleep(milliseconds: number): Promise<void> {{
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}}

function query(words: Words): string {{
  const pairs = Object.entries(words).flatMap(([name, value]) => [value].flat().map((each) => [name, String(each)] as [string, string]));
  return new URLSearchParams(pairs).toString();
}}
"""


def typescript(document: Mapping[str, Any], url: str) -> str:
    """Return the module: interfaces for the rows of each table, the entities and features of each feature view, and the input of each model."""
    tables: dict[str, str] = {}
    entities: dict[str, str] = {}
    features: dict[str, str] = {}
    models: dict[str, str] = {}
    for path, methods in document["paths"].items():
        if (table := _TABLE.fullmatch(path)) is not None:
            tables[unquote(table[1])] = _object(_row_of_answer(methods["get"]), all_given=True)
        elif (view := _VIEW.fullmatch(path)) is not None:
            entities[unquote(view[1])] = _object(_item_of_body(methods["post"], "entities"))
            row = _row_of_answer(methods["post"])
            features[unquote(view[1])] = _object(row["properties"]["features"], all_given=True)
        elif (model := _MODEL.fullmatch(path)) is not None:
            models[unquote(model[1])] = _object(_item_of_body(methods["post"], "rows"))
    parts = [
        _interface("Tables", "The rows of each table.", tables),
        _interface("Entities", "What the features of each feature view are looked up by.", entities),
        _interface("Features", "The features of each feature view.", features),
        _interface("Models", "A row of the input of each model.", models),
    ]
    return _HEAD.format(title=_in_comment(document["info"]["title"]), url=_in_comment(url), types="\n".join(parts))


def _row_of_answer(operation: Mapping[str, Any]) -> Mapping[str, Any]:
    row: Mapping[str, Any] = _properties(operation["responses"]["200"])["rows"]["items"]
    return row


def _item_of_body(operation: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    item: Mapping[str, Any] = _properties(operation["requestBody"])[name]["items"]
    return item


def _properties(message: Mapping[str, Any]) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = message["content"]["application/json"]["schema"]["properties"]
    return properties


def _interface(name: str, comment: str, members: Mapping[str, str]) -> str:
    lines = "".join(f"  {_name(each)}: {kind};\n" for each, kind in members.items())
    return f"/** {comment} */\nexport interface {name} {{\n{lines}}}\n"


def _object(schema: Mapping[str, Any], *, all_given: bool = False) -> str:
    """Return the type of an object; members that are not required are optional unless `all_given`."""
    required = schema.get("required", ())
    members = [
        f"    {_name(name)}{'' if all_given or name in required else '?'}: {_type(kind)};\n"
        for name, kind in schema.get("properties", {}).items()
    ]
    return "{\n" + "".join(members) + "  }" if members else "Record<string, unknown>"


def _type(schema: Mapping[str, Any]) -> str:
    kinds = schema.get("type", [])
    known = {"boolean": "boolean", "integer": "number", "number": "number", "string": "string", "null": "null"}
    types = [known.get(kind, "unknown") for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    return " | ".join(types) or "unknown"


def _name(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else json.dumps(name)


def _in_comment(text: str) -> str:
    return re.sub(r"[\r\n\u2028\u2029]", " ", text)
