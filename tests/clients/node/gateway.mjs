// Where the gateway is, and what the clients ask it: the same question and schema as in ../conftest.py.

export const url = process.env.GATEWAY_URL;
export const key = process.env.GATEWAY_KEY;
export const question = process.env.QUESTION;
export const ask = [{ role: "user", content: question }];

export const ticketSchema = {
  type: "object",
  properties: { category: { type: "string", enum: ["billing", "shipping"] }, urgent: { type: "boolean" } },
  required: ["category", "urgent"],
  additionalProperties: false,
};
// Greedy, with a penalty that ends the runs of blanks a tiny model else writes for ever where a grammar allows blanks.
export const structured = { temperature: 0, frequency_penalty: 1, max_tokens: 400 };
