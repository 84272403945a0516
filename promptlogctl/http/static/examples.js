// An example for each use, and for each limit.
export const examples = [
  {
    title: "A data transformation",
    code: `// Adds up the amounts of each item. Each line of the prompt is "item, amount".
const totals = new Map();
for (const line of prompt.split("\\n")) {
  const [item, amount] = line.split(",").map((part) => part.trim());
  if (item) totals.set(item, (totals.get(item) ?? 0) + Number(amount));
}
const result = [...totals].map(([item, total]) => ({ item, total }));
`,
    prompt: "apples, 3\npears, 2.5\napples, 4",
  },
  {
    title: "A business rule",
    code: `// The prompt is an order. The service that runs this program passes its rules in env.
const order = JSON.parse(prompt);
const sum = order.lines.reduce((total, line) => total + line.price * line.count, 0);
const level = env.levels.find((level) => sum >= level.from);
console.log("sum", sum, "level", level.name);
const result = { sum, discount: level.discount, toPay: sum * (1 - level.discount) };
`,
    prompt: '{"lines": [{"price": 19.5, "count": 4}, {"price": 40, "count": 1}]}',
    env: '{"levels": [{"name": "gold", "from": 100, "discount": 0.1}, {"name": "basic", "from": 0, "discount": 0}]}',
  },
  {
    title: "A Worker's handler",
    code: `// As in Cloudflare Workers: the prompt is in the URL of the request, and the body of the response is the result.
export default {
  async fetch(request, env) {
    const prompt = new URL(request.url).searchParams.get("prompt");
    return Response.json({ method: request.method, words: prompt.split(/\\s+/).length, region: env.region });
  },
};
`,
    prompt: "how many words are these",
    env: '{"region": "eu-central"}',
  },
  {
    title: "TypeScript, on Deno",
    language: "typescript",
    engine: "deno",
    limits: { cpu_ms: 200 },
    code: `// Deno itself takes 10 to 25 ms of CPU time, so the limit of this run is 200 ms (see Limits).
interface Word { text: string; length: number }

function measure(text: string): Word {
  return { text, length: [...text].length };
}

const result: Word[] = prompt.split(" ").map(measure);
`,
    prompt: "naïve café 漢字",
  },
  {
    title: "An error, and its line",
    code: `function priceOf(order) {
  return order.lines.map((line) => line.price);
}

const result = priceOf(JSON.parse(prompt));
`,
    prompt: '{"items": []}',
  },
  {
    title: "Limit: CPU time",
    code: `// After 50 ms of CPU time, the kernel stops the process.
console.log("counting…");
for (let i = 0; ; i++);
`,
  },
  {
    title: "Limit: memory",
    limits: { cpu_ms: 2000, memory_mb: 32 },
    code: `// The limits of this run are 32 MiB of memory, and 2 s of CPU time, so that it reaches the memory limit (see Limits).
const blocks = [];
for (;;) blocks.push(new Uint8Array(8 << 20).fill(1));
`,
  },
  {
    title: "Limit: wall time",
    engine: "deno",
    code: `// Waiting uses no CPU time. The wall limit of one second ends this run.
await new Promise((resolve) => setTimeout(resolve, 5000));
return "never";
`,
  },
  {
    title: "Limit: the result's size",
    code: `// The limit of a result is 1 MiB of JSON.
return "x".repeat(2 << 20);
`,
  },
];
