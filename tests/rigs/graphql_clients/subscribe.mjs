// Prints each event of a subscription as a line of JSON, and ends after a number of them: node subscribe.mjs MODULES URL KEY QUERY COUNT
import { createRequire } from "node:module";

const [, , modules, url, key, query, count] = process.argv;
const require = createRequire(`${modules}/`);
const { createClient } = require("graphql-ws");
const client = createClient({
  url,
  webSocketImpl: require("ws"),
  connectionParams: { Authorization: `Bearer ${key}` },
});
const events = client.iterate({ query });
let seen = 0;
for await (const event of events) {
  process.stdout.write(`${JSON.stringify(event)}\n`);
  seen += 1;
  if (seen === Number(count)) break;
}
await client.dispose();
