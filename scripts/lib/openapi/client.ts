// Registers, logs in, queues a job and chats, by the types that openapi-typescript generates.

import createClient from "openapi-fetch";
import type { paths } from "./api";

declare const process: { argv: string[] };

const [base, invite] = process.argv.slice(2);
const email = `${crypto.randomUUID()}@example.com`;
const password = crypto.randomUUID();
const client = createClient<paths>({ baseUrl: base });

function expect(isSo: unknown, what: string, seen: unknown): asserts isSo {
  if (!isSo) throw new Error(`${what}: ${JSON.stringify(seen)}`);
}

async function main() {
  const registered = await client.POST("/api/register", {
    body: { email, password, inviteCode: invite },
  });
  expect(registered.data?.userId, "register", registered.error);

  const login = await client.POST("/auth/login", { body: { email, password } });
  expect(login.data, "login", login.error);
  const headers = { Authorization: `Bearer ${login.data.data.access_token}` };

  const queued = await client.POST("/api/queue/media", {
    headers,
    body: { operation: "resize_image", input_url: "https://example.com/a.jpg", params: { width: 100 } },
  });
  expect(queued.data, "queue", queued.error);
  const queue: "media-jobs" | "scrape-jobs" | "onboarding-jobs" = queued.data.queue;
  expect(queue === "media-jobs", "queue", queued.data);
  const jobs = await client.GET("/api/jobs", { headers });
  expect(jobs.data?.data[0]?.jobId === queued.data.jobId, "jobs", jobs);

  // Without a model server the answer is a failure; either way it has the type that the document says.
  const answer = await client.POST("/api/genie/stream-chat", {
    headers,
    body: { message: "hello" },
    parseAs: "text",
  });
  const isStream = answer.data?.includes("finalizeResponseStream");
  expect(isStream || answer.error, "chat", answer);
  console.log("openapi-typescript: register, login, queue, chat");
}

main();
