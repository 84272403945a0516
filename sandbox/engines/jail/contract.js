// How a run ends, the same in each engine: what the program comes to as one string. Evaluated before any program is known,
// with the intrinsics as they were made.
//
// A program can get hold of every function here (CallSite.getFunction), so nothing here decides anything but what the
// program could say by itself: its own result, exception and log lines.
//
// In brackets of its own, by which V8 knows that it is called at once.
// contract(console, web, sizeOf) -> { follow, fail, report, start, call }. console: what makeConsole gives. web is how a
// Worker-style module is asked: request(url), is(response), value(response). sizeOf(text) is its size in UTF-8.
const contract = (() => ((console, web, sizeOf) => {
  'use strict';
  const { write, show, framesOf, begin } = console;
  const { apply, defineProperty } = Reflect;
  const { stringify } = JSON;
  const then = Promise.prototype.then;
  const { charCodeAt, indexOf, isWellFormed, slice, split, toWellFormed, trimEnd } = String.prototype;
  const { join } = Array.prototype;
  const text = String;
  const encode = encodeURIComponent;
  const isArray = Array.isArray;
  const { setPrototypeOf } = Object;
  const bigIntValueOf = BigInt.prototype.valueOf;
  const { isError } = Error;
  const ErrorPrototypeString = Error.prototype.toString;

  const MESSAGE_CHARACTERS = 16384;
  const MISSING =
    'the program gave no result: set `const result = ...` in its outermost block, or `return` a value';
  const MISSING_IN_MODULE = 'the module gave no result: let its default export return a value';

  let resultLimit = 0;

  const cut = (string, length) => apply(toWellFormed, apply(slice, string, [0, length]), []);

  // An error's own account: name and message, frames, the errors in it and what caused it. The daemon puts frames in the
  // program's terms.
  const CAUSES_DEEP = 4;
  const DATA_CHARACTERS = 4096;  // what is thrown along with an error may be large
  const otherThan = (error, deep) => (isError(error) ? account(error, deep + 1) : show(error, DATA_CHARACTERS));
  const causesOf = (error, deep) => {
    if (deep === CAUSES_DEEP) return '';
    const { cause } = error;
    return cause === undefined || cause === null ? '' : '\nCaused by: ' + otherThan(cause, deep);
  };
  const ERRORS_TOLD = 8;  // of those in an AggregateError
  const errorsOf = (error, deep) => {
    if (deep === CAUSES_DEEP) return '';
    const { errors } = error;
    if (!isArray(errors)) return '';
    let told = '';
    const { length } = errors;
    for (let i = 0; i < length && i < ERRORS_TOLD && told.length <= MESSAGE_CHARACTERS; i++) {
      told += '\nOne of its errors: ' + otherThan(errors[i], deep);
    }
    return length > ERRORS_TOLD ? told + '\nand ' + text(length - ERRORS_TOLD) + ' more' : told;
  };
  const account = (error, deep) => {
    const frames = framesOf(error);  // first: with the stack, QuickJS gets a better message
    return apply(ErrorPrototypeString, error, []) + frames + errorsOf(error, deep) + causesOf(error, deep);
  };

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

  // The frames alone, since a message of any length stands above them, and what caused it.
  const traceOf = (error) => {
    try {
      const frames = cut(apply(slice, framesOf(error), [1]), MESSAGE_CHARACTERS);
      return isError(error) ? frames + cut(errorsOf(error, 0) + causesOf(error, 0), MESSAGE_CHARACTERS) : frames;
    } catch {
      return '';
    }
  };

  const NOT_A_PROGRAM = {};
  const NEEDS =
    'the default export of a module must be a function (prompt, env) => value, or an object with fetch(request, env)';
  const fail = (error) => {
    if (error === NOT_A_PROGRAM) {
      return report('s', NEEDS, '', '');
    }
    const type = typeof error;
    if ((type === 'object' && error !== null) || type === 'function') {
      const trace = traceOf(error);  // first: with the stack, QuickJS gets a better message
      const name = field(error, 'name');
      let message = field(error, 'message');
      if (!name && !message) {
        if (!isError(error)) return report('x', '', 'thrown: ' + show(error, MESSAGE_CHARACTERS), '');
        message = 'thrown: an error without a name and a message';
      }
      return report('x', name || 'Error', message, trace);
    }
    return report('x', '', 'thrown: ' + show(error, MESSAGE_CHARACTERS), '');
  };

  const isBigIntObject = (value) => {
    try {
      return typeof value === 'object' && typeof apply(bigIntValueOf, value, []) === 'bigint';
    } catch {
      return false;
    }
  };
  // Why JSON.stringify failed, if for what the value is (a BigInt, a cycle) and not for what its code threw.
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

  // A result over the limit is told by its size, without all of it in another encoding.
  const PART_UNITS = 65536;
  const tooLarge = (json) => {
    let bytes = 0;
    for (let from = 0, to; from < json.length; from = to) {
      to = from + PART_UNITS;
      const last = apply(charCodeAt, json, [to - 1]);
      if (last >= 0xd800 && last < 0xdc00) to += 1;  // the other half of a pair
      bytes += sizeOf(apply(slice, json, [from, to]));
    }
    return report('o', text(bytes), '', '');
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
      return report('b', type === 'undefined' ? (inModule ? MISSING_IN_MODULE : MISSING) : 'the result is not JSON: it is a ' + type, '', '');
    }
    // What is replaced below gets shorter, at most from six characters to one.
    if (json.length > ESCAPE_CHARACTERS * resultLimit) return tooLarge(json);
    const sent = typeof value === 'string' && apply(isWellFormed, value, []) ? json : withoutLoneSurrogates(json);
    if (sent.length > resultLimit) return tooLarge(sent);
    if (sent !== json) write(3, ['the result has a lone surrogate; U+FFFD takes its place']);
    return sent;
  };

  // JSON.stringify escapes lone surrogates, which strict readers of JSON refuse: U+FFFD takes their place. It writes small
  // digits; the text of JSON.rawJSON may have capitals, and whole pairs.
  const ESCAPE_CHARACTERS = 6;
  const HIGH = '89abAB', LOW = 'cdefCDEF';
  const isSurrogate = (string, at, digits) =>
    string[at] === '\\' && string[at + 1] === 'u' && (string[at + 2] === 'd' || string[at + 2] === 'D') &&
    apply(indexOf, digits, [string[at + 3] ?? '?']) >= 0;
  const isLone = (string, at) =>
    (string[at + ESCAPE_CHARACTERS] !== '\\' && string[at - ESCAPE_CHARACTERS] !== '\\') ||
    (isSurrogate(string, at, HIGH) && !isSurrogate(string, at + ESCAPE_CHARACTERS, LOW)) ||
    (isSurrogate(string, at, LOW) && !isSurrogate(string, at - ESCAPE_CHARACTERS, HIGH));
  const withoutLoneSurrogates = (json) => {
    for (const escape of ['\\ud', '\\uD']) {
      if (apply(indexOf, json, [escape]) < 0) continue;
      // Of the same length, without the backslashes that stand for themselves.
      const escapes = apply(join, apply(split, json, ['\\\\']), ['--']);
      const parts = setPrototypeOf([], null);
      let from = 0;
      for (let at = 0; (at = apply(indexOf, escapes, [escape, at])) >= 0; at += ESCAPE_CHARACTERS) {
        if (!isLone(escapes, at)) continue;
        parts[parts.length] = apply(slice, json, [from, at]);
        from = at + ESCAPE_CHARACTERS;
      }
      if (from === 0) continue;
      parts[parts.length] = apply(slice, json, [from]);
      json = apply(join, parts, ['\ufffd']);
    }
    return json;
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
  let inModule = false;
  const call = (namespace, prompt, env, module = true) => {
    inModule = module;
    const main = namespace.default;
    if (typeof main === 'function') return apply(main, undefined, [prompt, env]);
    const handler = typeof main === 'object' && main !== null ? main.fetch : undefined;
    if (typeof handler !== 'function') throw NOT_A_PROGRAM;
    return answer(handler, main, prompt, env);
  };

  let started = false;
  const start = (resultBytes, logBytes) => {
    if (started) return;  // who gets hold of what calls this can lift no limit
    started = true;
    resultLimit = resultBytes;
    begin(logBytes);
  };

  return { follow, fail, report, start, call };
}))();
