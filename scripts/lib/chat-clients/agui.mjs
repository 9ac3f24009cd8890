// The official client of AG-UI, for tests/genie/chat_clients.rs.
//
//   node agui.mjs ADDRESS TOKEN
//
// The last line is what happened, as JSON.
import { HttpAgent } from "@ag-ui/client";

const [address, token] = process.argv.slice(2);
const agent = (threadId) =>
  new HttpAgent({ url: `${address}/api/genie/agui`, headers: { Authorization: `Bearer ${token}` }, threadId });
const say = (agent, content) => agent.addMessage({ id: crypto.randomUUID(), role: "user", content });
const paint = {
  name: "paint",
  description: "Paints the page",
  parameters: { type: "object", properties: { colour: { type: "string" } } },
};
const told = {};

const chat = agent("chat");
say(chat, "hello");
const first = await chat.runAgent({ runId: "first" });
told.first = first.newMessages.map((message) => [message.role, message.content]);

const page = agent("page");
say(page, "colour it");
const asked = await page.runAgent({ runId: "asked", tools: [paint] });
const call = asked.newMessages[0].toolCalls[0];
told.call = [call.function.name, JSON.parse(call.function.arguments)];
page.addMessage({ id: crypto.randomUUID(), role: "tool", toolCallId: call.id, content: "painted" });
const painted = await page.runAgent({ runId: "painted", tools: [paint] });
told.painted = painted.newMessages.map((message) => message.content);

const stopped = agent("stopped");
say(stopped, "a long one");
const running = stopped.runAgent(
  { runId: "stopped" },
  { onTextMessageContentEvent: () => stopped.abortRun() },
);
told.stopped = await running.then(
  () => "ended",
  (error) => error.name,
);

const breaks = agent("breaks");
say(breaks, "breaks");
let error = null;
await breaks
  .runAgent({ runId: "breaks" }, { onRunErrorEvent: ({ event }) => void (error = event.code) })
  .catch(() => {});
told.error = error;

console.log(JSON.stringify(told));
