// The Vercel AI SDK against the real engine, through its provider for OpenAI-compatible servers.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, jsonSchema, Output, streamText, tool } from "ai";
import { key, question, structured, ticketSchema, url } from "./gateway.mjs";

const settings = { name: "turntable", baseURL: `${url}/v1`, apiKey: key };
const gateway = createOpenAICompatible({ ...settings, includeUsage: true, supportsStructuredOutputs: true });
const greedy = { model: gateway("base"), prompt: question, temperature: 0, maxOutputTokens: 150, maxRetries: 0 };
const decisive = { ...greedy, frequencyPenalty: structured.frequency_penalty, maxOutputTokens: structured.max_tokens };
const schema = jsonSchema(ticketSchema);

function assertTicket(ticket) {
  assert.ok(ticketSchema.properties.category.enum.includes(ticket.category));
  assert.equal(typeof ticket.urgent, "boolean");
}

test("generateText answers with text and usage", async () => {
  const answer = await generateText(greedy);
  assert.ok(answer.text);
  assert.equal(answer.finishReason, "stop");
  assert.equal(answer.response.modelId, "base");
  assert.ok(answer.usage.inputTokens > 0);
  assert.ok(answer.usage.outputTokens > 0);
});

test("streamText streams the same text in pieces, with usage", async () => {
  const stream = streamText(greedy);
  const pieces = [];
  for await (const piece of stream.textStream) pieces.push(piece);
  assert.ok(pieces.length > 1);
  assert.equal(pieces.join(""), (await generateText(greedy)).text);
  assert.ok((await stream.usage).outputTokens > 0);
});

test("a structured output obeys its schema", async () => {
  assertTicket((await generateText({ ...decisive, output: Output.object({ schema }) })).output);
});

for (const toolChoice of ["required", { type: "tool", toolName: "file_ticket" }]) {
  test(`a tool is called and run with arguments that obey its schema (${JSON.stringify(toolChoice)})`, async () => {
    const fileTicket = tool({ description: "File a ticket.", inputSchema: schema, execute: async (args) => args });
    const answer = await generateText({ ...decisive, tools: { file_ticket: fileTicket }, toolChoice });
    assert.equal(answer.toolCalls[0].toolName, "file_ticket");
    assertTicket(answer.toolCalls[0].input);
    assert.deepEqual(answer.toolResults[0].output, answer.toolCalls[0].input);
  });
}

test("a streamed tool call arrives whole", async () => {
  const tools = { file_ticket: tool({ inputSchema: schema }) };
  const [call] = await streamText({ ...decisive, tools, toolChoice: "required" }).toolCalls;
  assertTicket(call.input);
});

test("an error carries the gateway's status and words", async () => {
  await assert.rejects(generateText({ ...greedy, model: gateway("nobody") }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 404);
    assert.equal(error.isRetryable, false);
    assert.match(error.message, /`nobody` does not exist/);
    return true;
  });
});
