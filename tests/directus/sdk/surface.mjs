// Calls everything in the official SDK that logs in, asks who the caller is or changes the caller's account, and writes
// one line of JSON for each call: what the server answered. `tests/directus/sdk.rs` compares the lines of two servers.
//
// Standard input: {"sdk": "sdk-26", "url", "email", "password", "skew": [steps of the three one-time codes]}

import { createHmac } from "node:crypto";

const input = JSON.parse(await new Response(process.stdin).text());
const sdk = await import(input.sdk);

let last = null;
const spy = async (url, options = {}) => {
  const response = await fetch(url, options);
  const text = await response.clone().text();
  last = { method: options.method ?? "GET", path: new URL(url).pathname, status: response.status, text };
  return response;
};

// The shape of an answer: the names of its fields and the kinds of their values.
const kind = (value) => (value === null ? "null" : Array.isArray(value) ? "list" : typeof value);
const shape = (text) => {
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    return text === "" ? {} : { text };
  }
  if (body.errors) {
    const codes = body.errors.map((error) => error.extensions?.code ?? null);
    const worded = body.errors.every((error) => typeof error.message === "string");
    return { codes, worded, top: Object.keys(body).sort() };
  }
  const data = body.data ?? body;
  if (typeof data !== "object" || Array.isArray(data)) return { data: kind(data) };
  const fields = Object.entries(data).map(([name, value]) => [name, kind(value)]);
  return { fields: Object.fromEntries(fields.sort()) };
};

// `ended`: how the SDK told its caller. A value, or what it threw.
const call = async (name, make) => {
  last = null;
  let ended, value;
  try {
    value = await make();
    ended = "value";
  } catch (error) {
    ended = Array.isArray(error?.errors) ? "errors" : `thrown: ${error?.message ?? error}`;
  }
  console.log(JSON.stringify({ name, ended, ...last, text: undefined, ...shape(last?.text ?? "") }));
  return value;
};

const decode32 = (text) => {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  const bits = [...text.replace(/=+$/, "")].map((c) => alphabet.indexOf(c).toString(2).padStart(5, "0")).join("");
  return Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
};
// RFC 6238. A skew is used for servers that take a code once: each step has its own.
const code = (secret, skew) => {
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30000) + skew));
  const mac = createHmac("sha1", decode32(secret)).update(step).digest();
  const at = mac[19] & 15;
  return String((mac.readUInt32BE(at) & 0x7fffffff) % 1000000).padStart(6, "0");
};

// Directus takes a code of the present step only, and on a busy machine an answer takes seconds. Late in a step this waits for
// the next one.
const freshStep = async () => {
  const left = 30000 - (Date.now() % 30000);
  if (left < 8000) await new Promise((resolve) => setTimeout(resolve, left));
};

const client = (token) => {
  const made = sdk.createDirectus(input.url, { globals: { fetch: spy } }).with(sdk.rest());
  return token === undefined ? made : made.with(sdk.staticToken(token));
};
const anybody = client();
// The arguments of some commands became one object in release 20.
const objects = sdk.login.length === 1;
const logIn = (email, password, options) =>
  objects ? sdk.login({ email, password }, options) : sdk.login(email, password, options);
const refresh = (mode, token) => (objects ? sdk.refresh({ mode, refresh_token: token }) : sdk.refresh(mode, token));
const logout = (token, mode) => (objects ? sdk.logout({ refresh_token: token, mode }) : sdk.logout(token, mode));

const { email, password } = input;
await call("login: wrong password", () => anybody.request(logIn(email, "not the password", { mode: "json" })));
await call("login: unknown address", () => anybody.request(logIn("nobody@example.com", password, { mode: "json" })));
await call("login: no address", () => anybody.request(logIn("nobody", password, { mode: "json" })));
await call("login: cookie", () => anybody.request(logIn(email, password, { mode: "cookie" })));
await call("login: session", () => anybody.request(logIn(email, password, { mode: "session" })));
await call("login: unknown mode", () => anybody.request(logIn(email, password, { mode: "carrier pigeon" })));
const first = await call("login", () => anybody.request(logIn(email, password, { mode: "json" })));
const second = await call("refresh", () => anybody.request(refresh("json", first.refresh_token)));
await call("refresh: unknown token", () => anybody.request(refresh("json", "x".repeat(64))));
await call("refresh: no token", () => anybody.request(refresh("json", undefined)));
await call("refresh: cookie", () => anybody.request(refresh("cookie", undefined)));
await call("refresh: session", () => anybody.request(refresh("session", undefined)));

// The composable that keeps the tokens for an application.
const app = sdk.createDirectus(input.url, { globals: { fetch: spy } }).with(sdk.authentication("json")).with(sdk.rest());
await call("authentication: login", () => (objects ? app.login({ email, password }) : app.login(email, password)));
await call("authentication: readMe", () => app.request(sdk.readMe()));
await call("authentication: refresh", () => app.refresh());
await call("authentication: logout", () => app.logout());
const inCookies = sdk.createDirectus(input.url, { globals: { fetch: spy } }).with(sdk.authentication()).with(sdk.rest());
await call("authentication in cookies: login", () => (objects ? inCookies.login({ email, password }) : inCookies.login(email, password)));

const user = client(second.access_token);
const [head, payload] = second.access_token.split(".");
const encode = (json) => Buffer.from(JSON.stringify(json)).toString("base64url");
const claims = JSON.parse(Buffer.from(payload, "base64url"));
const signed = (claims) => {
  const body = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${body}.${createHmac("sha256", "not the key").update(body).digest("base64url")}`;
};
const forged = {
  "another signature": `${head}.${payload}.${"A".repeat(43)}`,
  "another key": signed(claims),
  "another key, expired": signed({ ...claims, exp: claims.iat - 1 }),
  "no algorithm": `${encode({ alg: "none", typ: "JWT" })}.${payload}.`,
  "another issuer": signed({ ...claims, iss: "somebody" }),
  "no token at all": "nonsense",
  "half a token": `${head}.${payload}`,
};
for (const [name, token] of Object.entries(forged)) {
  await call(`readMe: ${name}`, () => client(token).request(sdk.readMe()));
}
await call("readMe: nobody", () => anybody.request(sdk.readMe()));
await call("updateMe: another signature", () => client(forged["another signature"]).request(sdk.updateMe({ first_name: "Eve" })));
await call("updateMe: nobody", () => anybody.request(sdk.updateMe({ first_name: "Eve" })));

await call("readMe", () => user.request(sdk.readMe()));
const queries = {
  "role.name": { fields: [{ role: ["name"] }] },
  "role.*": { fields: [{ role: ["*"] }] },
  "*.*": { fields: ["*.*"] },
  "*": { fields: ["*"] },
  "id, role.name and first_name": { fields: ["id", "first_name", { role: ["name"] }] },
  "nothing known": { fields: ["nonsense"] },
  "a role's unknown field": { fields: [{ role: ["nonsense"] }] },
  "filter": { fields: ["id", "email"], filter: { status: { _eq: "active" } } },
  "deep": { fields: ["id"], deep: { role: { _limit: 1 } } },
  "sort": { fields: ["id"], sort: ["email"] },
  "limit and page": { fields: ["id"], limit: 1, page: 1 },
  "names": { fields: ["first_name", "last_name", "avatar", "language", "last_page", "provider"] },
};
for (const [name, query] of Object.entries(queries)) {
  await call(`readMe: ${name}`, () => user.request(sdk.readMe(query)));
}

await call("updateMe: names", () => user.request(sdk.updateMe({ first_name: "Ada", last_name: "Lovelace" })));
const named = await call("readMe: new names", () => user.request(sdk.readMe({ fields: ["first_name", "last_name"] })));
console.log(JSON.stringify({ name: "the new names", named }));
await call("updateMe: a name cleared", () => user.request(sdk.updateMe({ last_name: null }, { fields: ["last_name"] })));
await call("updateMe: a wrong kind", () => user.request(sdk.updateMe({ email: "nobody" })));

await call("generateTwoFactorSecret: wrong password", () => user.request(sdk.generateTwoFactorSecret("not the password")));
const factor = await call("generateTwoFactorSecret", () => user.request(sdk.generateTwoFactorSecret(password)));
await call("enableTwoFactor: wrong code", () => user.request(sdk.enableTwoFactor(factor.secret, "000000")));
await freshStep();
await call("enableTwoFactor", () => user.request(sdk.enableTwoFactor(factor.secret, code(factor.secret, input.skew[0]))));
await call("enableTwoFactor: again", () => user.request(sdk.enableTwoFactor(factor.secret, code(factor.secret, input.skew[0]))));
await call("login: no code", () => anybody.request(logIn(email, password, { mode: "json" })));
await call("login: wrong code", () => anybody.request(logIn(email, password, { mode: "json", otp: "000000" })));
await freshStep();
await call("login: code", () => anybody.request(logIn(email, password, { mode: "json", otp: code(factor.secret, input.skew[1]) })));
await call("disableTwoFactor: wrong code", () => user.request(sdk.disableTwoFactor("000000")));
await freshStep();
await call("disableTwoFactor", () => user.request(sdk.disableTwoFactor(code(factor.secret, input.skew[2]))));

await call("passwordRequest: unknown address", () => anybody.request(sdk.passwordRequest("nobody@example.com")));
await call("passwordRequest: a foreign address", () => anybody.request(sdk.passwordRequest(email, "https://evil.example/reset")));
await call("passwordRequest", () => anybody.request(sdk.passwordRequest(email)));
await call("passwordReset: unknown token", () => anybody.request(sdk.passwordReset("nonsense", "another password")));

await call("readProviders", () => anybody.request(sdk.readProviders()));
await call("registerUser", () => anybody.request(sdk.registerUser("new@example.com", "a new password")));
await call("registerUserVerify", () => anybody.request(sdk.registerUserVerify("nonsense")));
await call("inviteUser", () => user.request(sdk.inviteUser("new@example.com", "a role")));
await call("acceptUserInvite", () => anybody.request(sdk.acceptUserInvite("nonsense", "a new password")));
await call("readUserPermissions", () => user.request(sdk.readUserPermissions()));
await call("readPolicies", () => user.request(sdk.readPolicies()));
await call("readPolicyGlobals", () => user.request(sdk.readPolicyGlobals()));
await call("readRolesMe", () => user.request(sdk.readRolesMe()));
await call("serverPing", () => anybody.request(sdk.serverPing()));
await call("serverHealth", () => anybody.request(sdk.serverHealth()));
await call("serverInfo", () => anybody.request(sdk.serverInfo()));
await call("auth: unknown route", () => user.request(() => ({ path: "/auth/no/such/route", method: "GET" })));
await call("users: unknown route", () => user.request(() => ({ path: "/users/me/no/such/route", method: "POST", body: "{}" })));
await call("users: wrong method", () => user.request(() => ({ path: "/users/me/tfa/enable", method: "DELETE" })));

await call("logout", () => anybody.request(logout(second.refresh_token, "json")));
await call("refresh: after the logout", () => anybody.request(refresh("json", second.refresh_token)));
await call("logout: no token", () => anybody.request(logout(undefined, "json")));
await call("logout: unknown token", () => anybody.request(logout("x".repeat(64), "json")));

// The composable has a timer that would keep the process.
process.exit(0);
