// What a program finds and how its run ends, the same in each engine: `console`, and what the program comes to as one
// string. Evaluated before any program is known, with the intrinsics as they were made.
//
// A program can get hold of every function here (CallSite.getFunction), so nothing here decides anything but what the
// program could say by itself: its own result, exception and log lines.
//
// contract(log, web) -> { follow, fail, report, start, call }. log(level, text) takes one console line. web is how a
// Worker-style module is asked: request(url), is(response), value(response).
const contract = ((globalThis) => (log, web) => {
  'use strict';
  const { apply, defineProperty } = Reflect;
  const { stringify } = JSON;
  const then = Promise.prototype.then;
  const { indexOf, slice } = String.prototype;
  const toWellFormed = String.prototype.toWellFormed;
  const text = String;
  const encode = encodeURIComponent;
  const isArray = Array.isArray;
  const bigIntValueOf = BigInt.prototype.valueOf;
  const ErrorPrototypeString = Error.prototype.toString;
  const isError = Error.isError ?? ((value) => value instanceof Error);

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
    if (logLeft < 0) {
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

  // Why JSON.stringify failed, if for what the value is (a BigInt, a cycle) and not for what its code threw.
  const isBigIntObject = (value) => {
    try {
      return typeof value === 'object' && typeof apply(bigIntValueOf, value, []) === 'bigint';
    } catch {
      return false;
    }
  };
  const whyNoJson = (value) => {
    let found = '';
    const path = [];
    try {
      stringify(value, function (key, member) {
        while (path.length && path[path.length - 1] !== this) path.length -= 1;
        if (typeof member === 'bigint' || isBigIntObject(member)) {
          found ||= 'it holds a BigInt';
          return 0;
        }
        if (typeof member === 'object' && member !== null) {
          for (let i = 0; i < path.length; i++) {
            if (path[i] === member) {
              found ||= 'it refers to itself';
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
      const why = whyNoJson(value);
      return why ? report('b', 'the result is not JSON: ' + why, '', '') : fail(error);
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

  // What the default export of a module comes to.
  const call = (namespace, prompt, env) => {
    const main = namespace.default;
    if (typeof main === 'function') return apply(main, undefined, [prompt, env]);
    const handler = typeof main === 'object' && main !== null ? main.fetch : undefined;
    if (typeof handler !== 'function') throw NOT_A_PROGRAM;
    return answer(handler, main, prompt, env);
  };

  // Bytes are counted by who reads; these are UTF-16 units.
  const start = (resultUnits, logUnits) => {
    resultLimit = resultUnits;
    logLeft = logUnits;
  };

  return { follow, fail, report, start, call };
})(globalThis);
