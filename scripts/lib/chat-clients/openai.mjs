// The official client of OpenAI for JavaScript, for tests/genie/chat_clients.rs.
//
//   node openai.mjs ADDRESS TOKEN
//
// The last line is what happened, as JSON.
import OpenAI from "openai";

const [address, token] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: token, maxRetries: 0 });
const model = "qwen2.5:latest";
const asking = (content, more = {}) => ({ model, messages: [{ role: "user", content }], ...more });
const weather = {
  type: "function",
  function: {
    name: "weather",
    description: "The weather of a city",
    parameters: { type: "object", properties: { city: { type: "string" } } },
    parse: JSON.parse,
    function: ({ city }) => `sunny in ${city}`,
  },
};

async function failure(asked) {
  try {
    const answer = await asked();
    for await (const _ of answer);
  } catch (error) {
    return [error.constructor.name, error.status ?? null, error.code, error.type, error.param ?? null];
  }
}

const told = {};
told.models = (await client.models.list()).data.map((one) => one.id);
told.model = (await client.models.retrieve(model)).id;

const whole = await client.chat.completions.create(asking("hello"));
told.whole = [whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.completion_tokens];

let text = "";
let usage = null;
const stream = await client.chat.completions.create(
  asking("hello", { stream: true, stream_options: { include_usage: true } }),
);
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
told.streamed = [text, usage.completion_tokens];

told.tools = await client.chat.completions.runTools(asking("the weather?", { tools: [weather] })).finalContent();
const streamedTools = client.chat.completions.runTools(asking("the weather?", { tools: [weather], stream: true }));
told.streamedTools = await streamedTools.finalContent();

const aborted = await client.chat.completions.create(asking("a long one", { stream: true, user: "aborted" }));
for await (const chunk of aborted) {
  if (chunk.choices[0]?.delta.content) {
    aborted.controller.abort();
    break;
  }
}
told.aborted = aborted.controller.signal.aborted;

told.unknownModel = await failure(() => client.chat.completions.create({ ...asking("x"), model: "gpt-4o" }));
told.wrongField = await failure(() => client.chat.completions.create(asking("x", { n: 2 })));
told.missingModel = await failure(() => client.chat.completions.create(asking("missing")));
told.brokenStream = await failure(() => client.chat.completions.create(asking("breaks", { stream: true })));
const stranger = new OpenAI({ baseURL: `${address}/v1`, apiKey: "nobody", maxRetries: 0 });
told.stranger = await failure(() => stranger.models.list());

console.log(JSON.stringify(told));
