// The Vercel AI SDK's providers for OpenAI (Responses API, chat, completions) and Anthropic, pointed at the gateway.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, generateText, streamText } from "ai";
import { key, question, url } from "./gateway.mjs";

const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: key });
const anthropic = createAnthropic({ baseURL: `${url}/v1`, apiKey: key });
const models = {
  responses: (name) => openai.responses(name),
  chat: (name) => openai.chat(name),
  anthropic: (name) => anthropic(name),
};

for (const [api, model] of Object.entries(models)) {
  const greedy = { model: model("base"), prompt: question, temperature: 0, maxOutputTokens: 150, maxRetries: 0 };

  test(`${api}: a stream adds up to the answer, both with usage`, async () => {
    const answer = await generateText(greedy);
    const stream = streamText(greedy);
    const pieces = [];
    for await (const piece of stream.textStream) pieces.push(piece);
    assert.ok(answer.text);
    assert.equal(answer.finishReason, "stop");
    assert.ok(answer.usage.outputTokens > 0);
    assert.equal(pieces.join(""), answer.text);
    assert.ok((await stream.usage).outputTokens > 0);
  });

  test(`${api}: an unknown model is a 404 that is not retried`, async () => {
    await assert.rejects(generateText({ ...greedy, model: model("nobody"), maxRetries: 2 }), (error) => {
      assert.ok(APICallError.isInstance(error));
      assert.equal(error.statusCode, 404);
      assert.match(error.message, /`nobody` does not exist/);
      return true;
    });
  });
}

test("completions: a legacy completion answers with usage", async () => {
  const greedy = { prompt: question, temperature: 1, seed: 1, maxOutputTokens: 150, maxRetries: 0 };
  assert.ok((await generateText({ ...greedy, model: openai.completion("base") })).usage.outputTokens > 0);
});
