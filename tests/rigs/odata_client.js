// Reads the café's service with npm's @odata/client, and prints a line of JSON for each answer.
const { OData } = require("@odata/client");

const [url, key] = process.argv.slice(2);

async function main() {
  const client = OData.New4({ serviceEndpoint: `${url}/`, credential: { username: "anyone", password: key } });
  const orders = client.getEntitySet("cafe_orders");
  const say = (answer) => console.log(JSON.stringify(answer));
  const filter = client.newFilter().property("price").gt(2.4).property("cups").in([1, 2]);
  say(await orders.query(client.newOptions().filter(filter).select(["order_id", "guest"]).orderby("order_id", "desc").top(2)));
  say(await orders.count(client.newFilter().property("cups").eq(1)));
  say(await orders.retrieve(2));
  say(await client.getEntitySet("guests").retrieve("Ann"));
  say((await orders.query()).length);
  try {
    await orders.query(client.newFilter().property("nope").eq(1));
  } catch (error) {
    say(error.message);
  }
}

main().catch((error) => { console.error(error); process.exit(1); });
