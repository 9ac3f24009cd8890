// The AI SDK over its provider for servers that speak as OpenAI does, for tests/genie/chat_clients.rs.
//
//   node ai.mjs ADDRESS TOKEN
//
// The last line is what happened, as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [address, token] = process.argv.slice(2);
const genie = createOpenAICompatible({ name: "genie", baseURL: `${address}/v1`, apiKey: token, includeUsage: true });
const model = genie("qwen2.5:latest");
const told = { asked: [] };
const tools = {
  weather: tool({
    description: "The weather of a city",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      told.asked.push(city);
      return `sunny in ${city}`;
    },
  }),
};

const whole = await generateText({ model, prompt: "hello", maxRetries: 0 });
told.whole = [whole.text, whole.finishReason, whole.usage.outputTokens];

const steps = await generateText({ model, prompt: "the weather?", tools, stopWhen: stepCountIs(3), maxRetries: 0 });
told.steps = [steps.steps.length, steps.steps[0].finishReason, steps.text];

const streamed = streamText({ model, prompt: "the weather?", tools, stopWhen: stepCountIs(3), maxRetries: 0 });
let text = "";
for await (const piece of streamed.textStream) text += piece;
told.streamed = [(await streamed.steps).length, text, await streamed.finishReason];

const abort = new AbortController();
const aborted = streamText({ model, prompt: "a long one", abortSignal: abort.signal, maxRetries: 0, onError() {} });
for await (const part of aborted.fullStream) {
  if (part.type === "text-delta") abort.abort();
}
told.aborted = abort.signal.aborted;

let broken = null;
const breaks = streamText({ model, prompt: "breaks", maxRetries: 0, onError() {} });
for await (const part of breaks.fullStream) {
  if (part.type === "error") broken = String(part.error?.message ?? part.error);
}
told.broken = broken;

console.log(JSON.stringify(told));
