// The openai package for Node, unchanged; `common.py` says what the environment gives.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const baseURL = `${process.env.GUARD_URL}/v1`;
const keys = JSON.parse(process.env.GUARD_KEYS);
const clientOf = (tenant, options = {}) => new OpenAI({ baseURL, apiKey: keys[tenant], ...options });
const asking = (content = "Where is my parcel?") => ({ model: "auto", messages: [{ role: "user", content }] });
const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather in a city.",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

const scenarios = {
  async chat() {
    const answer = await clientOf("open").chat.completions.create(asking());
    return { content: answer.choices[0].message.content, model: answer.model };
  },

  async stream() {
    const pieces = [];
    const models = new Set();
    for await (const chunk of await clientOf("open").chat.completions.create({ ...asking(), stream: true })) {
      models.add(chunk.model);
      if (chunk.choices[0]?.delta?.content) pieces.push(chunk.choices[0].delta.content);
    }
    return { content: pieces.join(""), pieces: pieces.length, models: [...models] };
  },

  async tools() {
    const client = clientOf("open");
    const { messages } = asking("Please get weather for Oslo.");
    const asked = (await client.chat.completions.create({ model: "auto", messages, tools })).choices[0].message;
    const [call] = asked.tool_calls;
    messages.push(asked, { role: "tool", tool_call_id: call.id, content: "sunny, 7 degrees" });
    const answer = await client.chat.completions.create({ model: "auto", messages, tools });
    return { content: answer.choices[0].message.content };
  },

  async structured() {
    const order = z.object({ number: z.number(), status: z.string() });
    const format = zodResponseFormat(order, "order");
    const answer = await clientOf("open").chat.completions.parse({ ...asking(), response_format: format });
    return { parsed: order.safeParse(answer.choices[0].message.parsed).success ? "Order" : "nothing" };
  },

  async downgrade() {
    const { data, response } = await clientOf("soft").chat.completions.create(asking()).withResponse();
    return { model: data.model, route: response.headers.get("x-guard-route") };
  },

  async stop() {
    await clientOf("stopped").chat.completions.create(asking());
  },

  async outage() {
    await clientOf("down", { maxRetries: 0 }).chat.completions.create(asking());
  },
};

const seen = {};
for (const [name, scenario] of Object.entries(scenarios)) {
  try {
    seen[name] = await scenario();
  } catch (error) {
    const { status = null, code = null, message } = error;
    seen[name] = { error: error.constructor.name, status, code, message };
  }
}
process.stdout.write(JSON.stringify(seen));
