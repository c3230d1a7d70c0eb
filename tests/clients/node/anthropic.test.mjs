// Anthropic's JavaScript client against the real engine.

import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { ask, key, ticketSchema, url } from "./gateway.mjs";

const client = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });
const greedy = { model: "base", messages: ask, max_tokens: 150, temperature: 0 };

test("a message has text, a stop reason and usage", async () => {
  const message = await client.messages.create(greedy);
  assert.equal(message.content[0].type, "text");
  assert.equal(message.stop_reason, "end_turn");
  assert.ok(message.usage.output_tokens > 0);
});

test("a stream adds up to the message", async () => {
  const stream = client.messages.stream(greedy);
  const pieces = [];
  stream.on("text", (piece) => pieces.push(piece));
  const final = await stream.finalMessage();
  assert.equal(pieces.join(""), final.content[0].text);
  assert.equal(final.content[0].text, (await client.messages.create(greedy)).content[0].text);
});

test("a tool that must be used is used with input of its schema", async () => {
  const message = await client.messages.create({
    model: "base",
    messages: ask,
    max_tokens: 1500,
    tools: [{ name: "file_ticket", input_schema: ticketSchema }],
    tool_choice: { type: "tool", name: "file_ticket" },
  });
  const use = message.content.find((block) => block.type === "tool_use");
  assert.ok(ticketSchema.properties.category.enum.includes(use.input.category));
  assert.equal(typeof use.input.urgent, "boolean");
});

test("tokens can be counted", async () => {
  const counted = await client.messages.countTokens({ model: "base", messages: ask });
  assert.equal(counted.input_tokens, (await client.messages.create(greedy)).usage.input_tokens);
});

test("errors are the client's own classes", async () => {
  await assert.rejects(client.messages.create({ ...greedy, model: "nobody" }), (error) => {
    assert.ok(error instanceof Anthropic.NotFoundError);
    assert.equal(error.error.error.type, "not_found_error");
    return true;
  });
  const stranger = new Anthropic({ baseURL: url, apiKey: "tt-wrong", maxRetries: 0 });
  await assert.rejects(stranger.messages.create(greedy), Anthropic.AuthenticationError);
});
