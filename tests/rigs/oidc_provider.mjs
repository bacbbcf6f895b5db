// An identity provider on loopback, in memory: `node oidc_provider.mjs FOLDER_OF_PACKAGES PORT [RETURN_TO]`. Its clients get JWTs for one audience.
// With RETURN_TO, people sign in at its pages: any name, any password.
import { generateKeyPairSync } from "node:crypto";
import { pathToFileURL } from "node:url";

const [packages, port, returnTo] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${packages}/oidc-provider/lib/index.js`));
const issuer = `http://127.0.0.1:${port}`;
const audience = "https://data.example.com";
const pair = (kind, options, kid, alg) => ({
  ...generateKeyPairSync(kind, options).privateKey.export({ format: "jwk" }), kid, alg, use: "sig",
});
const client = (name, scope) => ({
  client_id: name, client_secret: "a secret of tests", grant_types: ["client_credentials"],
  redirect_uris: [], response_types: [], scope,
});
const pages = {
  client_id: "pages", client_secret: "a secret of tests", grant_types: ["authorization_code"], response_types: ["code"],
  redirect_uris: [returnTo], scope: "openid hw:read hw:query",
};
const algorithm = { analyst: "RS256", operator: "ES256", stranger: "RS256", pages: "RS256" };
const provider = new Provider(issuer, {
  jwks: { keys: [pair("rsa", { modulusLength: 2048 }, "rsa", "RS256"), pair("ec", { namedCurve: "P-256" }, "ec", "ES256")] },
  scopes: ["hw:read", "hw:query"],
  clients: [client("analyst", "hw:read hw:query"), client("operator", "hw:read"), client("stranger", "hw:read"), ...(returnTo ? [pages] : [])],
  features: {
    devInteractions: { enabled: Boolean(returnTo) },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: (ctx) => (ctx.oidc.client.clientId === "stranger" ? "https://other.example.com" : audience),
      getResourceServerInfo: (ctx, resource, found) => ({
        scope: "hw:read hw:query", audience: resource, accessTokenTTL: 300,
        accessTokenFormat: "jwt", jwt: { sign: { alg: algorithm[found.clientId] } },
      }),
    },
  },
  extraTokenClaims: (ctx, token) => ({ roles: [token.clientId], guest: "Bo" }),
});
provider.listen(Number(port), "127.0.0.1");
