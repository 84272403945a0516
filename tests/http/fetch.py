"""A script that uses the HTTP API with JavaScript's `fetch`, as a service does. Deno and Node run it."""

from __future__ import annotations

import json

PROGRAM = "const words = prompt.split(' ');\nconst result = { words: words.length, last: words.at(-1) };\n"

_SCRIPT = """
const json = { "content-type": "application/json" };
const post = (path, body, more, signal) =>
    fetch(new URL(path, SERVER), { method: "POST", headers: { ...json, ...more }, body: JSON.stringify(body), signal });
const told = {};

const { url } = await (await post("/submit", { code: PROGRAM })).json();
const run = await fetch(new URL(`${url}?prompt=${encodeURIComponent("ä ö")}`, SERVER));
told.run = [run.status, await run.text()];

const long = "ü".repeat(500_000);
told.long = (await (await post("/exec", { code: "return prompt.length", prompt: long })).json());

const says = { code: "console.log('one'); console.log('two'); return 3" };
const lines = await post("/exec", says, { accept: "text/event-stream" });
let text = "";
for await (const part of lines.body.pipeThrough(new TextDecoderStream())) text += part;
told.events = text.split("\\n").filter((line) => line.startsWith("event: ")).map((line) => line.slice(7));

const limit = await post("/exec", { code: "for (;;);" });
told.limit = [limit.status, (await limit.json()).status];

const endless = { code: "for (;;);", limits: { cpu_ms: 9000, wall_ms: 9000 } };
told.aborted = await post("/exec", endless, {}, AbortSignal.timeout(200))
    .then(() => "answered", (error) => error.name);
told.together = (await Promise.all(Array.from({ length: 30 }, (_, n) =>
    fetch(new URL(`${url}?prompt=${n}`, SERVER)).then((answer) => answer.json())))).map((answer) => +answer.last);
console.log(JSON.stringify(told));
"""

TOLD = {
    "run": [200, '{"words":2,"last":"ö"}'],
    "long": 500_000,
    "events": ["log", "log", "finished"],
    "limit": [504, 504],
    "aborted": "TimeoutError",
    "together": list(range(30)),
}
"""What the script prints, as JSON."""


def script(url: str) -> str:
    """Return the script for a server."""
    return f"const SERVER = {json.dumps(url)}, PROGRAM = {json.dumps(PROGRAM)};\n{_SCRIPT}"
