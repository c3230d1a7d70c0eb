// openai-node against a mock engine: retries, timeouts, a stream that breaks.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { ask, key, url } from "./gateway.mjs";

function counting() {
  const statuses = [];
  const send = async (...request) => {
    const response = await fetch(...request);
    statuses.push(response.status);
    return response;
  };
  return [statuses, send];
}

const failing = (fault) => ({ model: "base", messages: ask, mock_fault: fault });

test("an answer that the engine broke off is asked for again, as often as the client allows", async () => {
  const [statuses, send] = counting();
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 1, fetch: send });
  await assert.rejects(client.chat.completions.create(failing("drop")), OpenAI.InternalServerError);
  assert.deepEqual(statuses, [502, 502]);
});

test("a bad request is not retried", async () => {
  const [statuses, send] = counting();
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 2, fetch: send });
  await assert.rejects(client.chat.completions.create({ model: "base", messages: [] }), OpenAI.BadRequestError);
  assert.deepEqual(statuses, [400]);
});

test("silence is a timeout", async () => {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0, timeout: 1000 });
  await assert.rejects(client.chat.completions.create(failing("hang")), OpenAI.APIConnectionTimeoutError);
});

for (const fault of ["drop_mid_stream", "error_mid_stream"]) {
  test(`a stream with ${fault} is an error after what came before`, async () => {
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
    await client.chat.completions.create({ model: "base", messages: ask }); // or the circuit opens at the third fault
    const stream = await client.chat.completions.create({ ...failing(fault), stream: true });
    const chunks = [];
    await assert.rejects(async () => {
      for await (const chunk of stream) chunks.push(chunk);
    }, OpenAI.APIError);
    assert.ok(chunks.length > 0);
  });
}
