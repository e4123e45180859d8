// Plays the task with the libraries `openai` and `ollama`: `node node_clients.mjs '{"url", "model", "client", "prompt"}'`.
// Prints one JSON object. The packages are found from the folder in HERD_AGENTS, where they are installed.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const found = createRequire(`${process.env.HERD_AGENTS}/package.json`);
const load = (name) => import(pathToFileURL(found.resolve(name)).href);

const asked = JSON.parse(process.argv[2]);
const { model, prompt } = asked;
const MOVES_MAX = 8;
const implementations = {
  read_file: ({ path }) => readFileSync(path, "utf8"),
  str_replace: ({ path, old_str, new_str }) => {
    writeFileSync(path, readFileSync(path, "utf8").replace(old_str, () => new_str));
    return "changed";
  },
  run_command: ({ command }) => execFileSync("bash", ["-c", command], { encoding: "utf8" }),
};
const parameters = (names) => ({
  type: "object",
  properties: Object.fromEntries(names.map((name) => [name, { type: "string" }])),
  required: names,
  additionalProperties: false,
});
const takes = { read_file: ["path"], str_replace: ["path", "old_str", "new_str"], run_command: ["command"] };
const tools = Object.entries(takes).map(([name, names]) => ({ name, parameters: parameters(names) }));
const run = (name, given) => implementations[name](typeof given === "string" ? JSON.parse(given) : given);

async function openai() {
  const { default: OpenAI } = await load("openai");
  return new OpenAI({ baseURL: `${asked.url}/v1`, apiKey: "unused", maxRetries: 0 });
}

// The stream accumulator makes the final response from the events; `continues` sends only the new items.
async function responses(continues) {
  const client = await openai();
  const functions = tools.map((tool) => ({ type: "function", strict: false, ...tool }));
  const all = [{ role: "user", content: prompt }];
  let input = all;
  let previous_response_id;
  for (let move = 0; move < MOVES_MAX; move += 1) {
    const more = continues ? { previous_response_id } : { store: false };
    const stream = client.responses.stream({ model, input, tools: functions, ...more });
    const response = await stream.finalResponse();
    const calls = response.output.filter((item) => item.type === "function_call");
    if (!calls.length) return { text: response.output_text, usage: response.usage.total_tokens };
    const results = calls.map(({ name, call_id, arguments: given }) => ({ type: "function_call_output", call_id, output: run(name, given) }));
    all.push(...response.output.map(({ parsed_arguments, ...item }) => item), ...results);
    input = continues ? results : all;
    previous_response_id = response.id;
  }
}

async function chat() {
  const client = await openai();
  const functions = tools.map(({ name, parameters }) => ({
    type: "function",
    function: { name, parameters, parse: JSON.parse, function: (given) => run(name, given), description: name },
  }));
  const messages = [{ role: "user", content: prompt }];
  const runner = client.chat.completions.runTools({ model, messages, tools: functions, stream: true });
  return { text: await runner.finalContent() };
}

async function shaped() {
  const client = await openai();
  const format = { type: "json_schema", name: "sky", strict: true, schema: parameters(["colour"]) };
  const response = await client.responses.parse({ model, input: "What is the colour of the sky?", text: { format } });
  return { text: typeof response.output_parsed.colour };
}

async function ollama() {
  const { Ollama } = await load("ollama");
  const client = new Ollama({ host: asked.url });
  const functions = tools.map((tool) => ({ type: "function", function: { description: tool.name, ...tool } }));
  const messages = [{ role: "user", content: prompt }];
  for (let move = 0; move < MOVES_MAX; move += 1) {
    const message = { role: "assistant", content: "", thinking: "", tool_calls: [] };
    for await (const part of await client.chat({ model, messages, tools: functions, stream: true })) {
      message.content += part.message.content;
      message.tool_calls.push(...(part.message.tool_calls ?? []));
    }
    if (!message.tool_calls.length) return { text: message.content };
    messages.push(message);
    for (const { function: call } of message.tool_calls)
      messages.push({ role: "tool", tool_name: call.name, content: run(call.name, call.arguments) });
  }
}

// The verbs that change models; `model` has a copy and an own model is made from it.
async function verbs() {
  const { Ollama } = await load("ollama");
  const client = new Ollama({ host: asked.url });
  const names = async () => (await client.list()).models.map((one) => one.name).sort();
  const shown = await client.show({ model });
  // No registry can be reached.
  const pulled = await client.pull({ model }).catch((error) => ({ status: error.name }));
  await client.copy({ source: model, destination: "copied" });
  const made = await client.create({ model: "made", from: model, system: "Be brief." });
  const after = await names();
  const generated = await client.generate({ model: "copied", prompt: "Say hi.", stream: false });
  for (const name of ["copied", "made"]) await client.delete({ model: name });
  const embedded = await client.embed({ model: asked.embedder, input: ["a", "b"] });
  const missing = await client.show({ model: "copied" }).catch((error) => error.status_code);
  return {
    capabilities: shown.capabilities,
    statuses: [pulled.status, made.status],
    after,
    rest: await names(),
    hasText: generated.response.length > 0,
    vectors: embedded.embeddings.length,
    missing,
  };
}

const clients = {
  "openai-responses": () => responses(false),
  "openai-responses-continued": () => responses(true),
  "openai-chat": chat,
  "openai-parse": shaped,
  ollama,
  "ollama-verbs": verbs,
};
try {
  console.log(JSON.stringify(await clients[asked.client]()));
} catch (error) {
  console.log(JSON.stringify({ error: String(error), status: error.status, body: error.error, cause: String(error.cause ?? "") }));
  process.exitCode = 1;
}
