// Evaluated once in the zygote, before any program is known. It keeps the intrinsics that it needs, makes
// `console`, and leaves one hook for the wrapper of a program, which takes itself away when it is called.
//
// A program can get hold of every function here (CallSite.getFunction), so nothing here decides anything
// but what the program could say by itself: its own result, exception and log lines. Limits are the
// kernel's, and how a run ended is told by the zygote.
(() => {
  'use strict';
  const { apply, defineProperty, deleteProperty } = Reflect;
  const { stringify, parse } = JSON;
  const { imul } = Math;
  const then = Promise.prototype.then;
  const { indexOf, slice } = String.prototype;
  const toWellFormed = String.prototype.toWellFormed;
  const text = String;
  const isArray = Array.isArray;
  const bigIntValueOf = BigInt.prototype.valueOf;
  const ErrorPrototypeString = Error.prototype.toString;
  const isError = Error.isError ?? ((value) => value instanceof Error);
  const clock = globalThis.performance.now.bind(globalThis.performance);
  const wallClock = Date.now;
  const { __promptlog_take: take, __promptlog_log: log, __promptlog_web: web } = globalThis;
  for (const name of ['__promptlog_take', '__promptlog_log', '__promptlog_web']) delete globalThis[name];
  const encode = encodeURIComponent;

  const MESSAGE_CHARACTERS = 16384;
  const MISSING =
    'the program gave no result: set `const result = ...` in its outermost block, or `return` a value';

  let resultLimit = 0;
  let logLeft = 0;
  let cutTold = false;

  const cut = (string, length) => apply(toWellFormed, apply(slice, string, [0, length]), []);

  // --- console -------------------------------------------------------------------------------------------

  const show = (value) => {
    if (typeof value === 'string') return value;
    try {
      if (typeof value === 'bigint') return text(value) + 'n';
      if (typeof value === 'function') return '[function]';
      if (typeof value !== 'object' || value === null) return text(value);
      if (isError(value)) return apply(ErrorPrototypeString, value, []);
      return stringify(value) ?? '[object]';
    } catch {
      try {
        return isArray(value) ? '[array]' : '[object]';
      } catch {
        return '[object]';
      }
    }
  };

  const write = (level, values) => {
    if (logLeft < 0 && kept) {
      if (!cutTold) log(level, '');  // past the limit: told as cut, and not kept
      cutTold = true;
      return;
    }
    let line = '';
    for (let i = 0; i < values.length; i++) {
      line += (i ? ' ' : '') + show(values[i]);
      if (line.length > logLeft) break;
    }
    line = cut(line, logLeft + 1);
    logLeft -= line.length + 16;
    log(level, line);
  };

  const kept = [];  // what lives as long as the context
  const console = {};
  const levels = { debug: 0, log: 1, info: 2, warn: 3, error: 4, trace: 0, dir: 1, table: 1 };
  for (const name of Object.keys(levels)) {
    const level = levels[name];
    console[name] = { [name](...values) { write(level, values); } }[name];
  }
  console.assert = function assert(condition, ...values) {
    if (!condition) write(4, ['Assertion failed', ...values]);
  };
  defineProperty(globalThis, 'console', { value: console, writable: true, configurable: true, enumerable: false });

  // --- randomness and clocks: a forked context would give every run the same ones --------------------------

  let a = 0, b = 0, c = 0, counter = 1;
  const next = () => {  // sfc32
    const sum = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + sum) | 0;
    return sum >>> 0;
  };
  defineProperty(Math, 'random', {
    value: { random() { return ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992; } }.random,
    writable: true, configurable: true, enumerable: false,
  });

  let origin = 0;
  const performance = { now() { return clock() - origin; }, timeOrigin: 0 };
  defineProperty(globalThis, 'performance', {
    value: performance, writable: true, configurable: true, enumerable: false,
  });

  // --- how a run ends -----------------------------------------------------------------------------------

  const field = (error, name) => {
    try {
      const value = error[name];
      if (value === undefined || value === null) return '';
      return cut(typeof value === 'string' ? value : text(value), MESSAGE_CHARACTERS);
    } catch {
      return '';
    }
  };

  // What a run comes to, for the zygote: the value's JSON, or `!` and how else it ended. A string, since a promise
  // asks an object for a `then`, which a program may have put on any prototype.
  const clean = (string) => {
    let done = '';
    for (let at; (at = apply(indexOf, string, ['\0'])) >= 0; string = apply(slice, string, [at + 1])) {
      done += apply(slice, string, [0, at]) + '\\0';
    }
    return done + string;
  };
  const report = (kind, first, message, stack) =>
    '!' + kind + '\0' + clean(first) + '\0' + clean(message) + '\0' + clean(stack);

  const NOT_A_PROGRAM = {};
  const NEEDS =
    'the default export of a module must be a function (prompt, env) => value, or an object with fetch(request, env)';
  const fail = (error) => {
    if (error === NOT_A_PROGRAM) {
      return report('s', NEEDS, '', '');
    }
    const type = typeof error;
    if ((type === 'object' && error !== null) || type === 'function') {
      const name = field(error, 'name');
      let message = field(error, 'message');
      if (!name && !message) message = 'thrown: ' + cut(show(error), MESSAGE_CHARACTERS);
      return report('x', name || 'Error', message, field(error, 'stack'));
    }
    return report('x', '', 'thrown: ' + cut(show(error), MESSAGE_CHARACTERS), '');
  };

  // Whether JSON.stringify failed for what the value is (a BigInt, a cycle), and not for what its code threw.
  const isBigIntObject = (value) => {
    try {
      return typeof value === 'object' && typeof apply(bigIntValueOf, value, []) === 'bigint';
    } catch {
      return false;
    }
  };
  const isNoJson = (value) => {
    let found = false;
    const path = [];
    try {
      stringify(value, function (key, member) {
        while (path.length && path[path.length - 1] !== this) path.length -= 1;
        if (typeof member === 'bigint' || isBigIntObject(member)) {
          found = true;
          return 0;
        }
        if (typeof member === 'object' && member !== null) {
          for (let i = 0; i < path.length; i++) {
            if (path[i] === member) {
              found = true;
              return 0;
            }
          }
          defineProperty(path, path.length, { __proto__: null, value: member, writable: true, configurable: true });
        }
        return member;
      });
    } catch {}
    return found;
  };

  const succeed = (value) => {
    let json;
    try {
      json = stringify(value);
    } catch (error) {
      if (isNoJson(value)) return report('b', 'the result is not JSON: it holds a BigInt or refers to itself', '', '');
      return fail(error);
    }
    if (json === undefined) {
      const type = typeof value;
      return report('b', type === 'undefined' ? MISSING : 'the result is not JSON: it is a ' + type, '', '');
    }
    return json.length > resultLimit ? report('o', text(json.length), '', '') : json;
  };

  // Without a constructor of its own a promise is followed with the pristine one, whatever the program did
  // to Promise.prototype.
  const pristine = { __proto__: null, value: undefined };
  const follow = (promise) => {
    defineProperty(promise, 'constructor', pristine);
    const followed = apply(then, promise, [succeed, fail]);
    defineProperty(followed, 'constructor', pristine);
    return followed;
  };

  // A Worker-style module: the prompt comes in the request's URL, the response's body is the result.
  const answer = async (handler, main, prompt, env) => {
    const request = web.request('http://promptlog/?prompt=' + encode(prompt));
    const response = await apply(handler, main, [request, env, { waitUntil() {}, passThroughOnException() {} }]);
    return web.is(response) ? web.value(response) : response;
  };

  // `program` is the body as a function, or the promise of a module. A prompt and an env that are too long to
  // stand in the text of the call are fetched.
  globalThis.__promptlog_run = (program, prompt, env, resultUnits, logUnits, x, y, z) => {
    delete globalThis.__promptlog_run;
    if (prompt === undefined) {
      const job = take();
      prompt = job[0];
      env = job[1];
    }
    resultLimit = resultUnits;
    logLeft = logUnits;
    a = x;
    b = y;
    c = z;
    for (let i = 0; i < 12; i++) next();
    origin = clock();
    performance.timeOrigin = wallClock();
    env = env === '{}' ? {} : parse(env);
    if (typeof program === 'function') return follow(program(prompt, env));
    return follow(apply(then, program, [(namespace) => {
      const main = namespace.default;
      if (typeof main === 'function') return apply(main, undefined, [prompt, env]);
      const handler = typeof main === 'object' && main !== null ? main.fetch : undefined;
      if (typeof handler !== 'function') throw NOT_A_PROGRAM;
      return answer(handler, main, prompt, env);
    }]));
  };
  kept.push(globalThis.__promptlog_run);  // not freed by the run that takes it away: see builtins.js
})();
