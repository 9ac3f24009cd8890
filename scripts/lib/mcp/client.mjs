// Calls of tools by an official client of MCP, for tests/genie/mcp.rs.
//
//   node client.mjs 2025-11-25|2026-07-28 ENDPOINT TOKEN AGENT CALLS
//
// CALLS is JSON: a list of {name, arguments}. The last line is what was told, as JSON. A client checks what a tool
// answers against the tool's output schema, so an answer of another form is an error here.
import { Client as Stateless, StreamableHTTPClientTransport as StatelessTransport } from "@modelcontextprotocol/client";
import { Client as WithSessions } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as SessionTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [version, endpoint, token, agent, calls] = process.argv.slice(2);
const versions = [];
const options = {
  requestInit: { headers: { Authorization: `Bearer ${token}` } },
  fetch: (address, request) => {
    versions.push(new Headers(request.headers).get("mcp-protocol-version"));
    return fetch(address, request);
  },
};
const about = { name: agent, version: "1.0.0" };
const client =
  version === "2026-07-28"
    ? new Stateless(about, { versionNegotiation: { mode: "auto" } })
    : new WithSessions(about);
const transport =
  version === "2026-07-28"
    ? new StatelessTransport(new URL(endpoint), options)
    : new SessionTransport(new URL(endpoint), options);
await client.connect(transport);
const { tools } = await client.listTools();
const results = [];
for (const call of JSON.parse(calls)) {
  results.push(await client.callTool(call));
}
const told = { tools, results, server: client.getServerVersion()?.name, version: versions.at(-1) };
console.log(JSON.stringify(told));
await client.close();
process.exit(0);
