// Prints the results of the audits of graphql-http for a server, as JSON: node audits.mjs MODULES URL KEY
import { createRequire } from "node:module";

const [, , modules, url, key] = process.argv;
const require = createRequire(`${modules}/`);
const { auditServer } = require("graphql-http");
const headers = { Authorization: `Bearer ${key}` };
const results = await auditServer({
  url,
  fetchFn: (input, init = {}) => fetch(input, { ...init, headers: { ...init.headers, ...headers } }),
});
const shown = results.map(({ id, name, status, reason }) => ({ id, name, status, reason: reason ?? null }));
process.stdout.write(JSON.stringify(shown));
