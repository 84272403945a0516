// A small client of promptlogd for Node and Deno. It uses one connection, JSON lines, and concurrent requests.
//
//     node examples/client.mjs /run/promptlog/promptlog.sock
//
// docs/protocol.md describes all requests. docs/vectors.json has examples of each message.

import { connect } from "node:net";
import { argv, exit } from "node:process";
import { pathToFileURL } from "node:url";

export class Refused extends Error {
  constructor({ code, message, detail }) {
    super(message);
    this.code = code; // for programs: not_found, busy, quota, ...
    this.detail = detail ?? {};
    this.retryAfterMs = this.detail.retry_after_ms; // only with busy and quota
  }
}

export class Client {
  #socket;
  #waiting = new Map();
  #next = 1;
  #rest = Buffer.alloc(0);
  #error; // the reason why the connection ended, or undefined

  constructor(path) {
    this.#socket = connect(path);
    this.#socket.on("data", (data) => this.#read(data));
    this.#socket.on("error", (error) => this.#lost(error));
    this.#socket.on("close", () => this.#lost(new Error("the daemon closed the connection")));
  }

  /**
   * Send a request. Resolves with its final reply, or rejects with Refused or the error of the connection.
   * This method sets the id of the request. `onLog` receives each console line of a run with stream_logs.
   * `signal`, an AbortSignal, cancels a run. The outcome is then `cancelled`, unless the run ended before.
   */
  async ask(request, { onLog, signal } = {}) {
    signal?.throwIfAborted();
    if (this.#error !== undefined) throw this.#error;
    const id = this.#next++;
    const cancel = () => this.#send({ type: "cancel", id: this.#next++, target: id });
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      return await new Promise((resolve, reject) => {
        this.#waiting.set(id, { resolve, reject, onLog });
        this.#send({ ...request, id });
      });
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
  }

  /** Run a stored program (a hash or @NAME). Resolves with its value. `more`: further members of the request. */
  async run(program, prompt = "", more = {}, { onLog, signal } = {}) {
    const { outcome } = await this.ask({ type: "run", hash: program, prompt, ...more }, { onLog, signal });
    if (outcome.kind !== "ok") throw Object.assign(new Error(outcome.message ?? outcome.kind), { outcome });
    return outcome.value;
  }

  close() {
    this.#socket.end();
  }

  #send(request) {
    this.#socket.write(`${JSON.stringify(request)}\n`);
  }

  #read(data) {
    // Split bytes, not text, because the two parts of a character may arrive separately.
    const bytes = Buffer.concat([this.#rest, data]);
    let from = 0;
    try {
      for (let end; (end = bytes.indexOf(10, from)) >= 0; from = end + 1) {
        this.#take(JSON.parse(bytes.toString("utf8", from, end)));
      }
    } catch (error) { // the line is not JSON, or `onLog` threw
      this.#socket.destroy(error);
      return this.#lost(error);
    }
    this.#rest = bytes.subarray(from);
  }

  #take(reply) {
    const waiting = this.#waiting.get(reply.id);
    if (reply.id === undefined) return this.#lost(new Refused(reply)); // the daemon could not decode a request
    if (waiting === undefined) return;
    if (reply.type === "log") return waiting.onLog?.(reply);
    this.#waiting.delete(reply.id);
    if (reply.type === "error") waiting.reject(new Refused(reply));
    else waiting.resolve(reply);
  }

  #lost(error) {
    this.#error ??= error;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

async function main(path) {
  const client = new Client(path);
  const { hash } = await client.ask({ type: "submit", source: "return [...prompt].reverse().join('')" });
  console.log(hash, await client.run(hash, "hello world"));
  const lines = [];
  const source = "console.log('one'); console.log('two'); return 3";
  await client.ask({ type: "run", source, stream_logs: true }, { onLog: (line) => lines.push(line.text) });
  const values = await Promise.all(["a", "bc", "d\u{1f600}"].map((prompt) => client.run(hash, prompt)));
  console.log(JSON.stringify([lines, values]));
  await client.run("@nobody").catch((error) => console.log(error.code));
  await client.ask({ type: "run", source: "null.x" }).then(({ outcome }) => console.log(outcome.name, outcome.line));
  const endless = { type: "run", id: "ignored", source: "for (;;);", limits: { cpu_ms: 9000 } };
  const stopped = await client.ask(endless, { signal: AbortSignal.timeout(100) });
  console.log(stopped.outcome.kind);
  client.close();
}

if (argv[1] !== undefined && import.meta.url === pathToFileURL(argv[1]).href) {
  if (argv.length !== 3) {
    console.error("usage: client.mjs SOCKET (for example /run/promptlog/promptlog.sock)");
    exit(2);
  }
  try {
    await main(argv[2]);
  } catch (error) {
    console.error(`error: ${error.message}`); // ENOENT and ECONNREFUSED: no daemon listens at this path
    exit(1);
  }
}
