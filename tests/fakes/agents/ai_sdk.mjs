// Plays the task with the AI SDK: `node ai_sdk.mjs '{"url", "model", "provider", "streams", "stores", "prompt"}'`.
// Prints one JSON object. The packages are found from the folder in HERD_AGENTS, where they are installed.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const found = createRequire(`${process.env.HERD_AGENTS}/package.json`);
const load = (name) => import(pathToFileURL(found.resolve(name)).href);
const { generateText, streamText, tool, jsonSchema, stepCountIs, Output } = await load("ai");
const { createOpenAI } = await load("@ai-sdk/openai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
const { createAnthropic } = await load("@ai-sdk/anthropic");
const { createOllama } = await load("ollama-ai-provider-v2");

const asked = JSON.parse(process.argv[2]);
const baseURL = `${asked.url}/v1`;
const apiKey = "unused";
const makers = {
  "openai-responses": () => createOpenAI({ baseURL, apiKey }).responses(asked.model),
  "openai-chat": () => createOpenAI({ baseURL, apiKey }).chat(asked.model),
  "openai-compatible": () =>
    createOpenAICompatible({ name: "herd", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true })(asked.model),
  anthropic: () => createAnthropic({ baseURL, apiKey })(asked.model),
  ollama: () => createOllama({ baseURL: `${asked.url}/api` })(asked.model),
};
const model = makers[asked.provider]();

const text = (names) =>
  jsonSchema({
    type: "object",
    properties: Object.fromEntries(names.map((name) => [name, { type: "string" }])),
    required: names,
    additionalProperties: false,
  });
const tools = {
  read_file: tool({
    description: "Reads a file.",
    inputSchema: text(["path"]),
    execute: async ({ path }) => readFileSync(path, "utf8"),
  }),
  str_replace: tool({
    description: "Replaces a text in a file.",
    inputSchema: text(["path", "old_str", "new_str"]),
    execute: async ({ path, old_str, new_str }) => {
      const before = readFileSync(path, "utf8");
      if (!before.includes(old_str)) throw new Error("old_str is not in the file");
      writeFileSync(path, before.replace(old_str, () => new_str));
      return { changed: true };
    },
  }),
  run_command: tool({
    description: "Runs a command.",
    inputSchema: text(["command"]),
    execute: async ({ command }) => execFileSync("bash", ["-c", command], { encoding: "utf8" }),
  }),
};

// Servers without stored answers cannot take references to earlier items.
const providerOptions = asked.provider === "openai-responses" && !asked.stores ? { openai: { store: false } } : {};
const common = { model, system: "You edit files.", maxRetries: 0, maxOutputTokens: 2000, providerOptions };
async function played() {
  const request = { ...common, prompt: asked.prompt, tools, stopWhen: stepCountIs(8) };
  if (!asked.streams) return generateText(request);
  const errors = [];
  const result = streamText({ ...request, onError: ({ error }) => errors.push(error) });
  await result.consumeStream();
  if (errors.length) throw errors[0];
  return { text: await result.text, steps: await result.steps, totalUsage: await result.totalUsage };
}
async function shaped() {
  const schema = jsonSchema({
    type: "object",
    properties: { colour: { type: "string" }, height: { type: "integer" } },
    required: ["colour", "height"],
    additionalProperties: false,
  });
  const request = { ...common, prompt: "What is the colour of the sky?", output: Output.object({ schema }) };
  if (!asked.streams) return (await generateText(request)).output;
  const result = streamText(request);
  await result.consumeStream();
  return await result.output;
}

try {
  const answer = await played();
  const steps = answer.steps.map((step) => ({
    finishReason: step.finishReason,
    calls: step.toolCalls.map((call) => call.toolName),
    reasoning: step.reasoningText ?? "",
  }));
  const output = asked.shape === false ? null : await shaped();
  console.log(JSON.stringify({ text: answer.text, steps, usage: answer.totalUsage, output }));
} catch (error) {
  console.log(JSON.stringify({ error: String(error), status: error.statusCode, body: error.responseBody, cause: String(error.cause ?? "") }));
  process.exitCode = 1;
}
