// openai-node against the real engine.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { ask, key, question, structured, ticketSchema, url } from "./gateway.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const greedy = { model: "base", messages: ask, temperature: 0, max_tokens: 150 };
const Ticket = z.object({ category: z.enum(["billing", "shipping"]), urgent: z.boolean() });
const tool = { type: "function", function: { name: "file_ticket", parameters: ticketSchema } };

async function greedyText() {
  return (await client.chat.completions.create(greedy)).choices[0].message.content;
}

test("an answer has text, a finish reason and usage", async () => {
  const completion = await client.chat.completions.create(greedy);
  assert.equal(completion.model, "base");
  assert.equal(completion.choices[0].finish_reason, "stop");
  assert.ok(completion.choices[0].message.content);
  assert.equal(completion.usage.total_tokens, completion.usage.prompt_tokens + completion.usage.completion_tokens);
});

test("a stream adds up to the answer and ends with usage when asked", async () => {
  const stream = await client.chat.completions.create({
    ...greedy,
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, await greedyText());
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.ok(chunks.at(-1).usage.completion_tokens > 0);
});

test("the stream helper accumulates the final completion", async () => {
  const completion = await client.chat.completions.stream(greedy).finalChatCompletion();
  assert.equal(completion.choices[0].message.content, await greedyText());
});

test("a tool that must be called is called with arguments that obey its schema", async () => {
  const completion = await client.chat.completions.create({
    ...structured,
    model: "base",
    messages: ask,
    tools: [tool],
    tool_choice: { type: "function", function: { name: "file_ticket" } },
  });
  const [call] = completion.choices[0].message.tool_calls;
  assert.equal(call.function.name, "file_ticket");
  Ticket.parse(JSON.parse(call.function.arguments));
});

test("the tool runner calls our function and goes on with its result", async () => {
  const seen = [];
  const runner = client.chat.completions.runTools({
    ...structured,
    model: "base",
    messages: ask,
    tool_choice: { type: "function", function: { name: "file_ticket" } },
    tools: [{ type: "function", function: { ...tool.function, parse: JSON.parse, function: (args) => seen.push(args) } }],
  });
  await runner.done();
  Ticket.parse(seen[0]);
  assert.equal(runner.messages.at(-1).role, "tool");
});

test("parse returns what the zod schema describes", async () => {
  const completion = await client.chat.completions.parse({
    ...structured,
    model: "base",
    messages: ask,
    response_format: zodResponseFormat(Ticket, "ticket"),
  });
  Ticket.parse(completion.choices[0].message.parsed);
});

test("a response streams its text and is parsed at the end", async () => {
  const respond = { model: "base", input: question, temperature: 0, max_output_tokens: 150 };
  const stream = client.responses.stream(respond);
  const deltas = [];
  stream.on("response.output_text.delta", (event) => deltas.push(event.delta));
  const final = await stream.finalResponse();
  assert.equal(deltas.join(""), final.output_text);
  assert.equal(final.output_text, (await client.responses.create(respond)).output_text);
  assert.ok(final.usage.output_tokens > 0);
});

test("a legacy completion answers, and embeddings are refused as a bad request", async () => {
  const complete = { model: "base", prompt: "Where is", max_tokens: 8, ignore_eos: true };
  assert.equal((await client.completions.create(complete)).usage.completion_tokens, 8);
  await assert.rejects(client.embeddings.create({ model: "base", input: question }), OpenAI.BadRequestError);
});

test("models can be listed and looked up", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes("base"));
  assert.equal((await client.models.retrieve("base")).id, "base");
});

test("errors are the client's own classes", async () => {
  await assert.rejects(client.chat.completions.create({ ...greedy, model: "nobody" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    assert.ok(error.requestID);
    return true;
  });
  await assert.rejects(client.chat.completions.create({ ...greedy, max_tokens: -1 }), OpenAI.BadRequestError);
  const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "tt-wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});
