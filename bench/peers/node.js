// A minimal server around an engine: node node.js KIND PORT
//   ivm-isolate   isolated-vm, an isolate for each run, 128 MB and 50 ms (of wall time: it has no CPU limit)
//   ivm-context   isolated-vm, one isolate, a context for each run
//   quickjs       quickjs-emscripten, a runtime and a context for each run, 128 MB and 50 ms by its interrupt handler
//   run           the package run, a context (WebAssembly) in a worker thread for each run, 128 MB and 2 s of wall time,
//                 in which the worker is started
'use strict';
const http = require('node:http');
const { createHash } = require('node:crypto');

const [kind, port] = process.argv.slice(2);
const programs = new Map();
// A program without `await` is called without a promise.
const awaits = (source) => /\bawait\b/.test(source);
const wrap = (source) =>
  `(${awaits(source) ? 'async ' : ''}function (prompt) {\n${source}\n; return JSON.stringify(result); })`;
const called = (source) => ({ timeout: 50, result: awaits(source) ? { promise: true } : {} });

const engines = {
  'ivm-isolate': async () => {
    const ivm = require('isolated-vm');
    return async (source, prompt) => {
      const isolate = new ivm.Isolate({ memoryLimit: 128 });
      try {
        const context = await isolate.createContext();
        const program = await context.eval(wrap(source), { timeout: 50, reference: true });
        return await program.apply(undefined, [prompt], called(source));
      } finally {
        if (!isolate.isDisposed) isolate.dispose();
      }
    };
  },
  'ivm-context': async () => {
    const ivm = require('isolated-vm');
    let isolate = new ivm.Isolate({ memoryLimit: 128 });
    return async (source, prompt) => {
      if (isolate.isDisposed) isolate = new ivm.Isolate({ memoryLimit: 128 });
      const context = await isolate.createContext();
      try {
        const program = await context.eval(wrap(source), { timeout: 50, reference: true });
        return await program.apply(undefined, [prompt], called(source));
      } finally {
        if (!isolate.isDisposed) context.release();
      }
    };
  },
  quickjs: async () => {
    const { getQuickJS, shouldInterruptAfterDeadline } = require('quickjs-emscripten');
    const QuickJS = await getQuickJS();
    return async (source, prompt) => {
      const runtime = QuickJS.newRuntime();
      runtime.setMemoryLimit(128 * 1024 * 1024);
      runtime.setInterruptHandler(shouldInterruptAfterDeadline(Date.now() + 50));
      const context = runtime.newContext();
      try {
        const value = context.unwrapResult(context.evalCode(`${wrap(source)}(${JSON.stringify(prompt)})`));
        if (awaits(source)) {
          const done = context.resolvePromise(value);
          context.unwrapResult(runtime.executePendingJobs());
          const settled = context.unwrapResult(await done);
          const text = context.getString(settled);
          settled.dispose();
          value.dispose();
          return text;
        }
        const text = context.getString(value);
        value.dispose();
        return text;
      } finally {
        context.dispose();
        runtime.dispose();
      }
    };
  },
  run: async () => {
    const { createRunner } = await import('run');
    const runner = createRunner({ limits: { timeoutMs: 2000, memoryLimitBytes: 128 * 1024 * 1024 } });
    return async (source, prompt) => {
      const given = `const prompt = ${JSON.stringify(prompt)};\n${source}\n; return JSON.stringify(result);`;
      const done = await runner.run({ source: given });
      if (done.status !== 'completed') throw new Error(done.status);
      return done.value;
    };
  },
};

const body = async (request) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
};

(async () => {
  const run = await engines[kind]();
  http.createServer(async (request, response) => {
    try {
      const url = new URL(request.url, 'http://localhost');
      if (url.pathname === '/submit') {
        const source = await body(request);
        const hash = createHash('sha256').update(source).digest('hex');
        programs.set(hash, source);
        response.end(hash);
        return;
      }
      const source = programs.get(url.pathname.split('/')[2]);
      if (source === undefined) {
        response.writeHead(404).end('not found');
        return;
      }
      response.setHeader('content-type', 'application/json');
      response.end(await run(source, url.searchParams.get('prompt')));
    } catch (error) {
      response.writeHead(500).end(String(error));
    }
  }).listen(Number(port), '127.0.0.1');
})();
